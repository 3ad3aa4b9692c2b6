"""Limits of the code interpreter."""

REQUEST_BYTES_MAX = 32 * 1024 * 1024
CONTEXTS_MAX = 32
# A kernel in software emulation.
START_SECONDS_MAX = 120.0
# From an interrupt until the kernel is restarted.
INTERRUPT_SECONDS_MAX = 10.0
KEEPALIVE_SECONDS = 5.0
TICK_SECONDS = 0.5
# Cells of a DataFrame that are sent as data, beside its text and HTML.
DATA_CELLS_MAX = 1_000_000
