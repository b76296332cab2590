"""The reducer: assembles records into transactions. Pure: no clock, no I/O."""
