"""One Meta-World task as a robot would meet it: two cameras, hand and gripper, an instruction, 40 actions a second.

Meta-World's goal-observable classes are used because the plain ones zero the goal, on which 14 of the 50 scripted
experts then fail. Demonstrations and rollouts share this class, so a policy is tested in the world it was taught in.
"""

import mujoco
import numpy as np
from jaxtyping import Float32, Float64, UInt8
from metaworld.env_dict import ALL_V3_ENVIRONMENTS_GOAL_OBSERVABLE

from vla.errors import ConfigError, DataError
from vla.registry import did_you_mean
from vla.sim.cameras import Camera, Frame, RayCaster, look_at

VIEWS = ("front", "wrist")
STATE_NAMES = ("hand_x", "hand_y", "hand_z", "gripper_opening")
ACTION_NAMES = ("move_x", "move_y", "move_z", "close_gripper")
ROBOT = "sawyer"
ACTION_REPEAT = 2
"""Physics steps (80 a second) per control step."""
FPS = 40
MAX_STEPS = 500 // ACTION_REPEAT
"""Control steps after which Meta-World itself ends an episode."""
PICTURE_SIZE = (240, 320)

INSTRUCTIONS = {
    "drawer-open-v3": "open the drawer",
    "button-press-topdown-v3": "press the button from the top",
    "faucet-open-v3": "open the faucet",
    "faucet-close-v3": "close the faucet",
}
VERBS = ("open", "close", "lock", "unlock", "press", "pull", "push", "turn", "insert", "unplug")
FRONT_POSITION, FRONT_TARGET, FRONT_FOVY = np.array([0.45, 0.15, 0.65]), np.array([0.0, 0.68, 0.08]), 48.0
WRIST_CAMERA = "gripperPOV"
GL_TO_CV = np.array([1.0, -1.0, -1.0])
"""MuJoCo's cameras look along -z with y up; ours along +z with y down."""


def tasks() -> list[str]:
    """All tasks, for example `drawer-open-v3`."""
    return sorted(name.removesuffix("-goal-observable") for name in ALL_V3_ENVIRONMENTS_GOAL_OBSERVABLE)


def instruction(task: str) -> str:
    """Plain words for a task: `lever-pull-v3` is "pull the lever", `reach-v3` is "reach"."""
    if task in INSTRUCTIONS:
        return INSTRUCTIONS[task]
    *noun, last = task.removesuffix("-v3").split("-")
    return f"{last} the {' '.join(noun)}" if noun and last in VERBS else " ".join([*noun, last])


class World:
    """One task; `reset` before anything else."""

    def __init__(self, task: str, *, image_size: tuple[int, int]) -> None:
        if task not in tasks():
            raise ConfigError(f"task: expected a Meta-World v3 task, found {task!r}.{did_you_mean(task, tasks())}")
        self.task = task
        self.instruction = instruction(task)
        self.image_size = image_size
        self._env = ALL_V3_ENVIRONMENTS_GOAL_OBSERVABLE[f"{task}-goal-observable"](seed=0)  # type: ignore[call-arg]  # their subclass adds it
        self._env._freeze_rand_vec = False  # noqa: SLF001  # Meta-World offers no public way to draw a new layout
        self._env.seeded_rand_vec = True
        self._caster = RayCaster(self._env.model)
        self._wrist = self._env.model.camera(WRIST_CAMERA).id
        self.steps = 0
        self.observation = np.zeros(39)
        """Meta-World's own observation, which the scripted experts read: privileged, never shown to a policy."""

    def reset(self, seed: int) -> None:
        """Start an episode; the seed alone decides the layout, whatever ran before."""
        # Meta-World's reset(seed=...) ignores its argument; seeding and resetting separately is what it obeys.
        self._env.seed(seed)
        self._env.reset()
        # Its reset moves bodies without recomputing where their shapes are, so pictures would show the layout before.
        mujoco.mj_forward(self._env.model, self._env.data)
        self._env._get_obs()  # noqa: SLF001  # the observation holds two frames: this one fills the earlier
        self.observation = self._env._get_obs()  # noqa: SLF001
        self.steps = 0

    def step(self, action_A: Float32[np.ndarray, "4"]) -> bool:
        """Apply one action (clipped to [-1, 1]) for one control step; true once the task has succeeded."""
        if action_A.shape != (len(ACTION_NAMES),) or not np.isfinite(action_A).all():
            raise DataError(
                f"{self.task}: expected an action of {len(ACTION_NAMES)} finite numbers ({', '.join(ACTION_NAMES)}), "
                f"found {action_A.tolist()}. Look at what commands the robot: a diverged policy gives such actions."
            )
        self.steps += 1
        succeeded = False
        for _ in range(ACTION_REPEAT):
            self.observation, _, _, _, outcome = self._env.step(np.clip(action_A, -1.0, 1.0))
            succeeded = succeeded or bool(outcome["success"])
        return succeeded

    @property
    def time(self) -> float:
        """Seconds since the episode start."""
        return self.steps / FPS

    @property
    def state(self) -> Float32[np.ndarray, "4"]:
        """Hand position in metres and how far the gripper is open (0 to 1)."""
        return self.observation[: len(STATE_NAMES)].astype(np.float32)

    def camera(self, view: str, size: tuple[int, int] | None = None) -> Camera:
        """The camera of a view where it is now."""
        size = size or self.image_size
        if view == "front":
            return Camera.make(FRONT_POSITION, look_at(FRONT_POSITION, FRONT_TARGET), FRONT_FOVY, size)
        data = self._env.data
        rotation = data.cam_xmat[self._wrist].reshape(3, 3) * GL_TO_CV
        return Camera.make(data.cam_xpos[self._wrist], rotation, float(self._env.model.cam_fovy[self._wrist]), size)

    def look(self, view: str) -> Frame:
        """What a view's camera sees now."""
        return self._caster.draw(self._env.data, self.camera(view), self._markers())

    def picture(self) -> UInt8[np.ndarray, "Y X 3"]:
        """The scene from the front, larger, for people."""
        return self._caster.draw(self._env.data, self.camera("front", PICTURE_SIZE), self._markers()).rgb

    def _markers(self) -> dict[int, Float64[np.ndarray, "3"]]:
        """The goal site, where the task has one.

        Scenes with several goal sites (faucet, door lock) serve several tasks that only the instruction tells apart:
        there a marker would give the answer away, so none is drawn.
        """
        sites = self._env._target_site_config  # noqa: SLF001
        return {self._env.model.site(name).id: position for name, position in sites} if len(sites) == 1 else {}
