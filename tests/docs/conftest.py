"""The layer that the guide on testing shows is the one in which the documentation's code is run."""

from docblocks import blocks
from docblocks import run
from layers import layer_fixtures
from pathlib import Path

import sys
import types

GUIDE = Path(__file__).parent.parent.parent / "docs" / "how-to-guides" / "test-your-addon.md"

# Layers are found by the name of their module.
module = sys.modules["guide_layers"] = types.ModuleType("guide_layers")
vars(module).update(run(blocks(GUIDE, "python")[0], module.__name__))

globals().update(layer_fixtures(((module.INTEGRATION, "integration"), (module.FUNCTIONAL, "functional"))))
