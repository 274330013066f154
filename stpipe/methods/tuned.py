"""The default: the network of partial convolutions, tuned on artificial gaps of this very cube.

The network was trained on many scenes and sees neighbourhoods; what it cannot know is which of all guides this cube
follows. That is learned in seconds to minutes from gaps of the cube's own shapes, as `stack` does: first the mean of
the guides that the network is to better, then how far to trust its answer among the guides, and trees on top of it all.
Simple methods that the network was not trained with are guides as well where they are worth their time: kriging where a
frame says most, curves through each pixel's series where frames are missing, other years where there are some.
"""

from __future__ import annotations

from stpipe.core.ports import Filler
from stpipe.methods.climatology import ClimatologyFiller
from stpipe.methods.guides import GuideMaker
from stpipe.methods.harmonic import HarmonicFiller
from stpipe.methods.kriging import KrigingFiller
from stpipe.methods.network import network_of
from stpipe.methods.stack import NETWORK, StackFiller
from stpipe.methods.whittaker import WhittakerFiller
from stpipe.model.weights import DEFAULT


def tuned_pconv(model: str = DEFAULT, *, others: tuple[Filler, ...] = ()) -> StackFiller:
    """Return the network, and the trees that learn from the cube.

    Parameters
    ----------
    model : str
        ``default``, or the path of a ``.keras`` file that stpipe wrote.
    others : tuple of Filler
        Further methods that it may lean on, besides its own.

    Examples
    --------
    >>> tuned_pconv().names[7:]
    ('kriging', 'whittaker', 'harmonic', 'climatology', 'pconv')
    """
    network = network_of(model)
    own = (KrigingFiller(), WhittakerFiller(), HarmonicFiller(), ClimatologyFiller())
    return StackFiller(
        name="pconv",
        network=network,
        maker=GuideMaker(others=(*own, *others), margin=network.margin),
        stand_in=NETWORK,
    )
