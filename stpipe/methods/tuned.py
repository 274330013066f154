"""The default: the network of partial convolutions, tuned on artificial gaps of this very cube.

The network was trained on many scenes and sees neighbourhoods; what it cannot know is which of all guides this cube
follows. That is learned in seconds to minutes from gaps of the cube's own shapes, as `stack` does: first the mean of
the guides that the network is to better, then how far to trust its answer among the guides, kriging with them where it
is worth its time, and trees on top of it all.
"""

from __future__ import annotations

from stpipe.core.ports import Filler
from stpipe.methods.guides import GuideMaker
from stpipe.methods.kriging import KrigingFiller
from stpipe.methods.network import network_of
from stpipe.methods.stack import NETWORK, StackFiller
from stpipe.model.weights import DEFAULT


def tuned_pconv(model: str = DEFAULT, *, others: tuple[Filler, ...] = ()) -> StackFiller:
    """Return the network, and the trees that learn from the cube.

    Parameters
    ----------
    model : str
        ``default``, or the path of a ``.keras`` file that stpipe wrote.
    others : tuple of Filler
        Further methods that it may lean on, besides kriging.

    Examples
    --------
    >>> tuned_pconv().names[-2:]
    ('kriging', 'pconv')
    """
    network = network_of(model)
    return StackFiller(
        name="pconv",
        network=network,
        maker=GuideMaker(others=(KrigingFiller(), *others), margin=network.margin),
        stand_in=NETWORK,
    )
