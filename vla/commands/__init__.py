"""What `vla` does beside the stages: word -> (module, what it does).

A command module has `add_arguments(parser)` and `run(options) -> str`, the text to print.
"""

COMMANDS: dict[str, tuple[str, str]] = {
    "summary": ("vla.commands.summary", "what the last run of the pipeline made"),
    "predict": ("vla.commands.predict", "actions of a policy for image files, an instruction and a state"),
    "import-checkpoint": ("vla.commands.import_checkpoint", "pi0 or pi0.5 of openpi or LeRobot as a bundle"),
    "export": ("vla.commands.export", "a bundle of pi0 or pi0.5 as a checkpoint of openpi or LeRobot"),
    "inspect": ("vla.commands.inspect", "show a bundle, a dataset or how norm stats fit, on one screen"),
    "plan": ("vla.commands.plan", "memory, operations and hours that a training would take, without allocating"),
    "presets": ("vla.commands.presets", "list, show or apply the parameters of published settings"),
    "doctor": ("vla.commands.doctor", "check versions, devices, disk, the tracking server and distributed training"),
    "clean": ("vla.commands.clean", "remove training states and temporary files that nothing uses"),
}
