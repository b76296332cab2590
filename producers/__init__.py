"""The producers: one file per input. They key raw lines and write them to mail.raw; they parse nothing."""
