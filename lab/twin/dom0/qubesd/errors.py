"""Errors of the Admin API. The class name is the first field of an error reply
(qubes-cli-formats.md §7).
"""


class QubesException(Exception):
    """Refused with a reason that the client prints."""


class QubesVMNotFoundError(QubesException):
    def __init__(self, name):
        super().__init__("No such domain: %r" % name)


class QubesValueError(QubesException):
    pass


class QubesPropertyValueError(QubesValueError):
    pass


class QubesNoSuchPropertyError(QubesException):
    def __init__(self, holder, name):
        super().__init__("Invalid property %r of %s" % (name, holder))


class QubesFeatureNotFoundError(QubesException):
    def __init__(self, qube, name):
        super().__init__("Feature not set for domain %s: %s" % (qube, name))


class QubesTagNotFoundError(QubesException):
    def __init__(self, qube, name):
        super().__init__("Tag not set for domain %s: %s" % (qube, name))


class QubesLabelNotFoundError(QubesException):
    def __init__(self, name):
        super().__init__("Label does not exist: %s" % name)


class QubesVMError(QubesException):
    pass


class QubesVMInUseError(QubesVMError):
    pass


class QubesVMNotHaltedError(QubesVMError):
    def __init__(self, qube, text=None):
        super().__init__(text or "Domain is not powered off: %r" % qube)


class QubesVMNotStartedError(QubesVMError):
    def __init__(self, qube, text=None):
        super().__init__(text or "Domain is powered off: %r" % qube)


class QubesVMNotRunningError(QubesVMNotStartedError):
    def __init__(self, qube, text=None):
        super().__init__(
            qube, text or "Domain not running (either powered off or paused): %r" % qube
        )


class QubesVMNotPausedError(QubesVMNotStartedError):
    def __init__(self, qube):
        super().__init__(qube, "Domain is not paused: %r" % qube)


class QubesVMShutdownTimeoutError(QubesVMError):
    def __init__(self, qube):
        super().__init__("Domain shutdown timed out: %r" % qube)


class QubesMemoryError(QubesVMError):
    def __init__(self, qube):
        super().__init__("Not enough memory to start domain %r" % qube)


class StoragePoolException(QubesException):
    pass


class Quoted(QubesException):
    """A KeyError in the real qubesd, whose text is therefore in quotes (qubes-cli-formats.md §6,
    "quotes included").
    """

    def __str__(self):
        return repr(self.args[0])


class DeviceAlreadyAssigned(Quoted):
    pass


class DeviceNotAssigned(Quoted):
    pass


class DeviceAlreadyAttached(Quoted):
    pass


class Refused(Exception):
    """The call or its arguments are not valid: qubesd closes the connection without a byte (§1,
    §7).
    """
