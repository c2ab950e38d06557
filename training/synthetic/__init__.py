"""Generated stress worlds: Merton jumps on GARCH(1,1) volatility in Markov regimes, with crash scripts.

`fit_parameters` (or `preset_parameters`), then `generate`, then `worlds_tape_inputs`. Scenarios are never stored:
they are made again from the parameters and their index within seconds.
"""

from training.synthetic.fit import fit_parameters, fit_stop_row
from training.synthetic.parameters import PRESET, REGIMES, Parameters, preset_parameters
from training.synthetic.scripts import SCRIPTS
from training.synthetic.worlds import ScenarioSplit, Worlds, generate, worlds_tape_inputs

__all__ = [
    "PRESET",
    "REGIMES",
    "SCRIPTS",
    "Parameters",
    "ScenarioSplit",
    "Worlds",
    "fit_parameters",
    "fit_stop_row",
    "generate",
    "preset_parameters",
    "worlds_tape_inputs",
]
