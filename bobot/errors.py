"""Every failure a user can see. Programming errors stay plain Python exceptions.

    BobotError                  anything bobot reports in one line; exit code 1
      UsageError                the command or the call is wrong; exit code 2
      NotFoundError             no such model, file, session or name
      ConfigError               a config file asks for something unknown or impossible
      CheckpointError           a weight file is damaged, incomplete or does not fit its config
        UnsafeFileError         a file could run code or reach outside itself; it was not opened
      TokenizerError            a tokenizer file is damaged, unknown or does not fit the model
        TemplateError           a chat template refuses the conversation or fails
      RequestError              a generation request can never run as asked
      StorageError              the disk is full or a path can't be written
      DownloadError             the network, the Hub or a publisher's terms stop a download
      GatewayError              a host of models refuses, fails, or breaks off an answer
      TrainingError             a recipe, a data set or a training run can't go on

The first argument is a template with {named} values, a plain literal in the source: it is also the
key under which `bobot/locale/id.toml` holds the Indonesian sentence (see messages.py).
"""

from __future__ import annotations

from collections.abc import Callable


class BobotError(Exception):
    """One line for the user: what was asked, the value found, the value allowed; `hint` is the next
    step.
    """

    exit_code = 1

    def __init__(self, template: str, /, *, hint: str = "", **values: object) -> None:
        self.template = template
        self.hint = hint
        self.values = values
        super().__init__(self.render(lambda text: text))

    def render(self, translate: Callable[[str], str]) -> str:
        """One line: template and hint, each translated before the values go in; an error among the
        values is translated too.
        """
        values = {
            name: value.render(translate) if isinstance(value, BobotError) else value
            for name, value in self.values.items()
        }
        message = translate(self.template).format(**values)
        if self.hint:
            stop = "" if message.endswith((".", "!", "?", ":", ";")) else "."
            message += f"{stop} {translate(self.hint).format(**values)}"
        return " ".join(message.split())


class UsageError(BobotError):
    exit_code = 2


class NotFoundError(BobotError):
    pass


class ConfigError(BobotError):
    pass


class CheckpointError(BobotError):
    pass


class UnsafeFileError(CheckpointError):
    pass


class TokenizerError(BobotError):
    pass


class TemplateError(TokenizerError):
    pass


class RequestError(BobotError):
    pass


class StorageError(BobotError):
    pass


class DownloadError(BobotError):
    pass


class GatewayError(BobotError):
    pass


class TrainingError(BobotError):
    pass
