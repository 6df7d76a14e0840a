"""what a user types -> an exit code: one file per command, and what the commands share."""
