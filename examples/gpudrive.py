"""The real GPUDrive, one simulator on each CPU, behind one policy.

    python examples/gpudrive.py FOLDER_OF_SCENES [worlds of each worker]
"""
import sys

import numpy as np

import fastvec
import fastvec.gpudrive

if __name__ == "__main__":
    worlds = int(sys.argv[2]) if len(sys.argv) > 2 else 2
    creator = fastvec.gpudrive.creator(sys.argv[1], worlds, collision_behavior="ignore")
    with fastvec.make(creator, num_workers=2) as vec:
        observations, infos = vec.reset(seed=0)
        for _ in range(91):
            actions = np.random.randint(0, 91, vec.num_rows)  # your policy, for the rows that vec.masks names
            observations, rewards, terminations, truncations, infos = vec.step(actions)
            for env in infos.values():
                print(*env["episodes"], sep="\n")
