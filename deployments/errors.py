"""What a person did wrong, said once and in one piece."""


class ConfigError(ValueError):
    """A setting that cannot work. The message says what, where and how to mend it."""
