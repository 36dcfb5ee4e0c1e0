"""The error that a command shows its user, and the exit status of a command that was interrupted."""

INTERRUPTED = 130  # 128 + SIGINT, as shells have it


class CliError(Exception):
    """Something the user can put right: `main` prints it in one line, without a traceback, and exits with 2."""
