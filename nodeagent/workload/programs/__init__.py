"""The programs of the built-in images, one module each: `main(life, args)` returns the exit code."""
