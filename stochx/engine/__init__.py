"""Shared machinery; it knows no method, no command and no terminal."""
