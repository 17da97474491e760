"""Shared machinery, independent of methods, commands and the terminal."""
