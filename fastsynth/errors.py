"""What is neither wrong usage nor a failure. No imports: the command line needs it before anything is loaded."""


class CheckFailedError(ValueError):
    """Everything ran, and a check says no: the data have problems, or a store breaks its contract."""
