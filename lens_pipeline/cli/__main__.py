"""`python -m lens_pipeline.cli`."""

from lens_pipeline.cli import main

main()
