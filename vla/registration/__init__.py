"""From the pipeline's files to a registered model version."""

import vla.tracking  # noqa: F401  # sets the environment that mlflow reads when this package's modules import it
