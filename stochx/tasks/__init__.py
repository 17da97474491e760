"""What commands do, as pure functions: live objects in, result rows out."""
