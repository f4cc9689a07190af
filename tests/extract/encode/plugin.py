"""The torch step of a codec of another package."""

from tokenreel.extract.encode.torch_codecs import TorchStep

BACKWARDS = TorchStep(lambda tokens: tokens.flip(-1))
