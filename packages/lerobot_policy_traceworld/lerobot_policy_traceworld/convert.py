"""A traceworld policy folder as a LeRobot checkpoint: python -m lerobot_policy_traceworld.convert POLICY_FOLDER OUT"""

import argparse
import sys
from pathlib import Path

from lerobot.configs import FeatureType, PolicyFeature

from lerobot_policy_traceworld.configuration_traceworld import TraceworldConfig
from lerobot_policy_traceworld.modeling_traceworld import ACTION, STATE, TraceworldPolicy
from lerobot_policy_traceworld.processor_traceworld import make_traceworld_pre_post_processors
from traceworld.policies.action_expert.checkpoint import MU0_FOLDER, read_policy_record
from traceworld.policies.action_expert.normalisation import ActionScales


def convert(folder: str | Path, out: str | Path, device: str = "cpu") -> Path:
    """Write a LeRobot checkpoint (policy and processors) of a traceworld policy.

    Raises:
        CheckpointError: the folder is no policy. ConfigError, MissingWeightsError: its μ0 is not on this machine.
    """
    folder, out = Path(folder), Path(out)
    record = read_policy_record(folder)
    scales = ActionScales.from_dict(record["scales"])
    keys = [f"observation.images.{name}" for name in scales.cameras] or ["observation.images.scene"]
    gripper = record["config"]["gripper"]
    read = gripper["source"] != "none" and gripper["camera"] in scales.cameras[1:]
    pictures = {key: PolicyFeature(FeatureType.VISUAL, (3, 256, 256)) for key in keys}
    stored = record["mu0"]["stored"]
    config = TraceworldConfig(
        mu0=str((folder / MU0_FOLDER).resolve()) if stored else record["mu0"]["source"],
        checkpoint=str(folder),
        scene_camera=keys[0],
        gripper_camera=f"observation.images.{gripper['camera']}" if read else "",
        chunk_size=record["config"]["chunk"],
        n_action_steps=min(8, record["config"]["chunk"]),
        store_mu0=stored,
        input_features={**pictures, STATE: PolicyFeature(FeatureType.STATE, (len(scales.state_mean),))},
        output_features={ACTION: PolicyFeature(FeatureType.ACTION, (scales.spec.dim,))},
        device=device,
        push_to_hub=False,
    )
    policy = TraceworldPolicy(config)
    config.checkpoint = ""
    policy.save_pretrained(out)
    for pipeline in make_traceworld_pre_post_processors(config):
        pipeline.save_pretrained(out)
    return out


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--device", default="cpu")
    arguments = parser.parse_args()
    sys.stdout.write(f"{convert(arguments.folder, arguments.out, arguments.device)}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
