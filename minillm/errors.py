"""The two errors that are minillm's own; everything else raises ValueError or TypeError."""


class UserError(ValueError):
    """A user's mistake: one line that names the thing and the remedy. Exit code 2."""


class KernelError(RuntimeError):
    """The compiled kernels cannot do what was asked; the message says why and what to do."""
