"""Command lines: one file per subcommand; parse, call, render."""
