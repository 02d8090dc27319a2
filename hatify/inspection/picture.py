"""Figures that notebooks show and files hold."""

from __future__ import annotations

from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hatify.errors import HatifyError
from hatify.output import PathLike, whole_file

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FORMATS = (".svg", ".pdf", ".png")


@dataclass(frozen=True)
class Picture:
    """A picture, shown where it is a notebook's result. figure: matplotlib's, to go on with."""

    figure: Figure

    def save(self, path: PathLike) -> None:
        """Write it as .svg, .pdf or .png, by the name's ending.

        Raises:
            HatifyError: another ending.
            FileError: the file cannot be written.
        """
        check_format(path)
        with whole_file(path) as unfinished:
            self.figure.savefig(unfinished, format=Path(path).suffix[1:], dpi=150)

    def _repr_svg_(self) -> str:
        stream = StringIO()
        self.figure.savefig(stream, format="svg")
        return stream.getvalue()


def check_format(path: PathLike) -> None:
    """Raise HatifyError for a name that no picture can have."""
    if Path(path).suffix not in FORMATS:
        raise HatifyError(f"cannot draw {str(path)!r}: the name has to end in {', '.join(FORMATS)}")


def new_figure(**settings: Any) -> Figure:
    """An empty figure.

    Raises:
        HatifyError: matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure
    except ModuleNotFoundError as missing:
        raise not_installed(missing) from None
    return Figure(**settings)


def not_installed(missing: ModuleNotFoundError) -> HatifyError:
    """What to raise where a library is missing that pictures need."""
    return HatifyError(f"pictures need {missing.name}: pip install 'hatify[draw]'")
