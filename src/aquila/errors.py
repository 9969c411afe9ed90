"""Every error a user can mend. A message says what is wrong (with the value), where, and what to do now.

    AquilaError                exit code 1
      ConfigError              exit code 2; also a ValueError: an option, a request or a config field is not usable
      TokenizerError           vocabulary or template cannot be used
      CheckpointError          a checkpoint cannot be read or written as asked
        IntegrityError         bytes differ from their recorded digest, or end too early
      DataError                training data cannot be read, or does not fit the model or the run
      DownloadError            a source cannot be reached, or does not deliver what it promised
      LaunchError              a machine cannot take part in a run, or has left it
      GenerationError          a request cannot be served by this model
        UnsupportedError       nor could any request of its kind: the model was not made for it
      SandboxError             untrusted code cannot be run here, or not within the promised walls
      EvaluationError          a benchmark's data or samples cannot be used, or a score would not mean anything
      TrainingError            a run cannot go on

The command line catches `AquilaError` and prints its message; anything else is a bug and shows its traceback.
"""


class AquilaError(Exception):
    exit_code = 1


class ConfigError(AquilaError, ValueError):
    exit_code = 2


class TokenizerError(AquilaError):
    pass


class CheckpointError(AquilaError):
    pass


class IntegrityError(CheckpointError):
    pass


class DataError(AquilaError):
    pass


class DownloadError(AquilaError):
    pass


class GenerationError(AquilaError):
    pass


class UnsupportedError(GenerationError):
    pass


class SandboxError(AquilaError):
    pass


class EvaluationError(AquilaError):
    pass


class TrainingError(AquilaError):
    pass


class LaunchError(AquilaError):
    pass
