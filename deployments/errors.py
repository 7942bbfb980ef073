"""What a person did wrong, said once and in one piece."""


class ConfigError(ValueError):
    """A setting that cannot work. The message says what, where and how to mend it."""


class EngineLostError(Exception):
    """An attached engine that does not answer, or went away while it did."""
