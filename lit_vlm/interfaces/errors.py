"""The one error that the command line shows without a traceback."""


class UserError(ValueError):
    """Says what was given, what was wanted and how to mend it.

    Raised for mistakes in a recipe, an option or a file; never for a fault of the program.
    """
