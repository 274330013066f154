"""YAML that somebody else may have written: how much of it is read, and what of YAML nobody needs."""

from __future__ import annotations

from pathlib import Path

from stpipe.errors import OptionError

LARGEST = 1 << 20
"""Bytes; a file that is larger is something else."""

DEEPEST = 40
"""Levels of keys in keys; reading takes the square of it, and then all of Python's stack."""

_DEEPEST_BRACKETS = 1000  # in quotes and remarks too; PyYAML's scanner takes the square of it


def read_text(path: Path, what: str) -> str:
    """Return the text of a file.

    Parameters
    ----------
    path : Path
        The file.
    what : str
        What it should be, such as "a pipeline", for messages.

    Raises
    ------
    OptionError
        If it is too large, no text, or can't be read.
    """
    try:
        if path.stat().st_size > LARGEST:
            raise OptionError(f"{path} is larger than 1 MiB; {what} has a few lines")
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise OptionError(f"{path.name}: this is not YAML: {error.reason}") from error
    except OSError as error:
        raise OptionError(f"can't read {path}: {error.strerror}") from error


def check_tokens(text: str, name: str, what: str, *, aliases: bool) -> None:
    """Refuse tags, which name types, nesting without end, and aliases unless they are harmless.

    Parameters
    ----------
    text : str
        The YAML.
    name : str
        The file's name, for messages.
    what : str
        What it should be.
    aliases : bool
        Whether there may be any; where they are written out, a few lines of them make millions.

    Raises
    ------
    OptionError
        With the line.
    yaml.YAMLError
        If it is no YAML.
    """
    import yaml

    depth = 0
    for number, line in enumerate(text.splitlines(), start=1):
        for letter in line:
            depth += (letter in "[{") - (letter in "]}")
            if depth > _DEEPEST_BRACKETS:
                raise OptionError(f"{name}, line {number}: this is nested too deep for {what}")
    depth = 0
    for token in yaml.scan(text, Loader=yaml.SafeLoader):
        opens = isinstance(token, yaml.FlowSequenceStartToken | yaml.FlowMappingStartToken)
        opens |= isinstance(token, yaml.BlockSequenceStartToken | yaml.BlockMappingStartToken)
        depth += opens
        depth -= isinstance(token, yaml.FlowSequenceEndToken | yaml.FlowMappingEndToken | yaml.BlockEndToken)
        line_number = token.start_mark.line + 1
        if depth > DEEPEST:
            raise OptionError(f"{name}, line {line_number}: this is nested too deep for {what}")
        if isinstance(token, yaml.TagToken) or (isinstance(token, yaml.AliasToken) and not aliases):
            kind = "tags such as !!python" if isinstance(token, yaml.TagToken) else "aliases such as *name"
            raise OptionError(f"{name}, line {line_number}: {what} has no {kind}; write the value out")
