"""The error that a command shows its user."""


class CliError(Exception):
    """Something the user can put right: `main` prints it in one line, without a traceback, and exits with 2."""
