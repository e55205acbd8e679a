"""Names for the arrays of the linear solvers."""

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Starts = npt.NDArray[np.int64]
Indices = npt.NDArray[np.int32]
