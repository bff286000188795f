"""Every error this package raises on purpose.

The tree::

    FlowgraphError
    ├── ArgumentError (also ValueError)        an argument has a value that cannot be used
    │   ├── KeywordError (also TypeError)      the function has no argument of this name
    │   ├── PromptError                        empty, or longer than the model's context
    │   ├── TargetError                        not one token of the vocabulary
    │   ├── UnknownModelError                  no such name, folder or known model
    │   ├── DeviceError                        the device asked for is not there
    │   ├── NonFiniteError                     NaN or infinity in weights or activations
    │   ├── NoCounterfactualError              no exchanged word moves the answer far enough
    │   └── GraphTooLargeError                 more edges than the stated size
    ├── ArchitectureError (also TypeError)     the model's parts could not be found, or a proof failed
    │   └── NoPatternError                     the attention implementation returns no patterns
    ├── UnsupportedReadingError                the model has no head, or its head is not norm + linear
    ├── NotRecordedError (also LookupError)    the trace was told not to keep this site
    ├── ModelNeededError                       the trace has no model attached, and needs one
    ├── ModelMismatchError                     the model offered is not the one that was traced
    ├── CancelledError                         a long piece of work was told to stop
    ├── FetchError                             a known model could not be downloaded or converted
    └── FileFormatError (also ValueError)      a file is not what it claims to be

Argument errors derive from ``ValueError`` so that code which does not know this package still catches them.
"""

from __future__ import annotations


class FlowgraphError(Exception):
    """Root of every error raised on purpose by flowgraph."""


class ArgumentError(FlowgraphError, ValueError):
    """An argument has a value that cannot be used; the message names it and says what was expected."""


class KeywordError(ArgumentError, TypeError):
    """The function has no argument of this name; the message says which one, or which call, is meant."""


class PromptError(ArgumentError):
    """The prompt is empty or longer than the model's context."""


class TargetError(ArgumentError):
    """The target or foil is not exactly one token of the model's vocabulary."""


class UnknownModelError(ArgumentError):
    """There is no known model, local folder or hub repository of this name."""


class DeviceError(ArgumentError):
    """The device asked for is not available on this machine."""


class NonFiniteError(ArgumentError):
    """NaN or infinite numbers in weights or activations."""


class NoCounterfactualError(ArgumentError):
    """No prompt with one word exchanged moves the answer far enough."""


class GraphTooLargeError(ArgumentError):
    """The graph asked for has more edges than the stated size."""


class ArchitectureError(FlowgraphError, TypeError):
    """The parts of the model could not be found, or an identity that proves them does not hold."""


class NoPatternError(ArchitectureError):
    """The model's attention gives no patterns."""


class UnsupportedReadingError(FlowgraphError):
    """A model cannot be read in vocabulary in the way that was asked for."""


class NotRecordedError(FlowgraphError, LookupError):
    """The trace does not hold the site that was asked for."""


class ModelNeededError(FlowgraphError):
    """The trace was loaded from a file and the question needs the model itself."""


class ModelMismatchError(FlowgraphError):
    """The model offered differs from the one that was traced."""


class CancelledError(FlowgraphError):
    """A long piece of work stopped because its ``cancel=`` said so."""


class FetchError(FlowgraphError):
    """A known model could not be downloaded, verified or converted."""


class FileFormatError(FlowgraphError, ValueError):
    """A file is damaged, or is not of the format it should be."""
