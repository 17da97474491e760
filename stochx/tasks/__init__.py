"""The work of the commands as pure functions: live objects in, result rows out."""
