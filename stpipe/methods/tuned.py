"""The default: the network of partial convolutions among the other guides, tuned on artificial gaps of this very cube.

The network was trained on many scenes and sees neighbourhoods; what it cannot know is which of all guides this cube
follows. That is learned in seconds to minutes from gaps of the cube's own shapes, as `stack` does, with the network
and kriging as guides more, each where it is worth its time.
"""

from __future__ import annotations

from stpipe.methods.guides import GuideMaker
from stpipe.methods.kriging import KrigingFiller
from stpipe.methods.pconv import pconv_filler
from stpipe.methods.stack import StackFiller
from stpipe.model.weights import DEFAULT


def tuned_pconv(model: str = DEFAULT) -> StackFiller:
    """Return the network as a guide of trees that learn from the cube.

    Parameters
    ----------
    model : str
        ``default``, or the path of a ``.keras`` file that stpipe wrote.

    Examples
    --------
    >>> tuned_pconv().maker.names[-2:]
    ('pconv', 'kriging')
    """
    network = pconv_filler(model)
    return StackFiller(name=network.name, maker=GuideMaker(others=(network, KrigingFiller())), stand_in=network.name)
