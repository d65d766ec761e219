"""`BoardError`: what the driver answers when it refuses, with NI's own codes.

Separate because everything on the board raises it. The codes are those of
``nidaqmx.error_codes``; the sentences are shorter than NI's.
"""

from __future__ import annotations

ERRORS = {
    -50103: "The specified resource is reserved.",
    -89136: "Specified route cannot be satisfied: the hardware does not support it.",
    -200040: "Source terminal to be routed could not be found on the device.",
    -200077: "Requested value is not a supported value for this property.",
    -200088: "Task specified is invalid or does not exist.",
    -200089: "Task name is already in use.",
    -200170: "Physical channel specified does not exist on this device.",
    -200197: "Specified property is not supported by the device.",
    -200220: "Device identifier is invalid.",
    -200222: "Acquisition has been stopped to prevent an input buffer overwrite.",
    -200229: "Buffer is too small to fit the read data.",
    -200284: "Some or all of the samples requested have not yet been acquired.",
    -200290: "Generation has been stopped to prevent regeneration of old samples.",
    -200292: "Some or all of the samples to write could not be written to the buffer.",
    -200303: "External sample clock source must be specified for this task.",
    -200431: "Selected physical channel does not support the I/O type of the task.",
    -200452: "Specified property is not applicable to the task.",
    -200462: "Generation cannot be started: nothing was written to the buffer.",
    -200478: "Specified operation cannot be performed on a task without channels.",
    -200479: "Specified operation cannot be performed while the task is running.",
    -200524: "Write cannot be performed: the number of channels does not match.",
    -200560: "Wait until done did not indicate that the task was done in time.",
    -200561: "Attempted writing analog data that is too large or too small.",
    -200587: "Digital lines are reserved or unavailable.",
    -200609: "Generation cannot be started: the output buffer size is too small.",
    -200635: "Action not supported: the task is no watchdog timer task.",
    -200644: "Watchdog timer cannot be reset: it has expired. Clear the expiration.",
    -200651: "Watchdog expiration state cannot be set on this channel.",
    -200662: "Device does not support watchdog timers.",
    -200668: "Watchdog timeout is out of range.",
    -200678: "Write failed because the watchdog timer expired.",
    -200771: "Digital filter is enabled, but has no minimum pulse width.",
    -200772: "Digital filter is not available on the given terminal.",
    -200806: "Digital filter is configured to another pulse width by another task.",
    -200846: "Write cannot be performed: the task is not running, auto start is off.",
    -200983: "Property cannot be read while the task is not reserved.",
    -201086: "Attribute is not modelled by this board.",
    -201439: "Retriggering is not allowed for a finite pulse train on this device.",
}


class BoardError(Exception):
    """What the driver answers when it refuses.

    Attributes
    ----------
    code : int
        NI's status code.
    """

    def __init__(self, code: int, detail: str = "") -> None:
        self.code = code
        super().__init__(" ".join(filter(None, (error_text(code), detail))))


def error_text(code: int) -> str:
    """Return the driver's sentence for a status code."""
    return ERRORS.get(code, f"The driver reported status {code}.")
