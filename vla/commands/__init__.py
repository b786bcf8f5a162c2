"""What `vla` does beside the stages: word -> (module, what it does).

A command module has `add_arguments(parser)` and `run(options) -> str`, the text to print.
"""

COMMANDS: dict[str, tuple[str, str]] = {
    "summary": ("vla.commands.summary", "what the last run of the pipeline made"),
    "predict": ("vla.commands.predict", "actions of a policy for image files, an instruction and a state"),
    "inspect": ("vla.commands.inspect", "show a bundle, a dataset or how norm stats fit, on one screen"),
    "doctor": ("vla.commands.doctor", "check versions, devices, disk, the tracking server and distributed training"),
    "clean": ("vla.commands.clean", "remove training states and temporary files that nothing uses"),
}
