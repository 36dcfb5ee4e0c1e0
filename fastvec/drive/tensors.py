"""GPUDrive's tensors of drive's worlds, for tools that read a GPUDrive simulator.  Filled when asked for, by C."""
from __future__ import annotations

from fastvec_c.drive.tensors import TENSORS, fill, new_tensor

ONLY_WHEN_NAMED = ("lidar", "bev_observation")  # by `raw`: they take long
PER_WORLD = ("shape", "world_means", "map_observation", "map_name", "scenario_id", "deleted_agents")


class Tensor:
    """What a simulator's `*_tensor()` returns: an array that others may look into without copying.

    It keeps the memory alive, as do the arrays and tensors that came from it.
    """

    def __init__(self, array):
        self._array = array

    def to_numpy(self):
        """The array itself."""
        return self._array

    def to_torch(self):
        """A torch tensor over the same memory.  Needs torch."""
        import torch

        return torch.from_numpy(self._array)

    def __array__(self, dtype=None, copy=None):
        array = self._array if dtype is None else self._array.astype(dtype, copy=False)
        if copy is False and array is not self._array:
            raise ValueError(f"another dtype than {self._array.dtype} needs a copy")
        return array.copy() if copy and array is self._array else array

    def __dlpack__(self, **kwargs):
        return self._array.__dlpack__(**kwargs)

    def __dlpack_device__(self):
        return self._array.__dlpack_device__()


def _method(name):
    shape, dtype = TENSORS[name]

    def tensor(self):
        return self._refreshed(name)

    tensor.__name__ = f"{name}_tensor"
    tensor.__doc__ = f"`Tensor` of {dtype} (worlds, {', '.join(map(str, shape))}); see `Sim`."
    return tensor


class Sim:
    """What can be read of GPUDrive's SimManager, of the worlds of a `Drive` env.

    There is a method for each tensor, of its name, which returns a `Tensor`:

    ========================================== =================== ======= ==============================================
    method                                     shape               dtype   what, for a slot that holds no agent
    ========================================== =================== ======= ==============================================
    action_tensor                              W, 64, 10           float32 the last action, 0
    reward_tensor                              W, 64, 1            float32 1 at the goal, else 0; 0
    done_tensor                                W, 64, 1            int32   1
    info_tensor                                W, 64, 5            int32   collided with road, vehicle, other; reached goal;
                                                                           entity type; 0
    self_observation_tensor                    W, 64, 8            float32 speed, length, width, height, goal x, y, collided,
                                                                           id; 0 with id -1
    partner_observations_tensor                W, 64, 63, 9        float32 speed, x, y, heading, length, width, height, type,
                                                                           id; 0 with id -1
    agent_roadmap_tensor                       W, 64, 200, 9       float32 as map_observation, seen by the agent; 0 with
                                                                           id and map type -1
    absolute_self_observation_tensor           W, 64, 14           float32 x, y, z, quaternion w x y z, yaw, goal x, y,
                                                                           length, width, height, id; 0 with id -1
    controlled_state_tensor                    W, 64, 1            int32   0
    response_type_tensor                       W, 64, 1            int32   0 dynamic, 2 static; 2
    expert_trajectory_tensor                   W, 64, 1456         float32 91 x, y; 91 vx, vy; 91 headings; 91 valid; 91
                                                                           actions; 0
    steps_remaining_tensor                     W, 64, 1            int32   0
    metadata_tensor                            W, 64, 4            int32   is SDC, of interest, to be predicted; difficulty; -1
    lidar_tensor                               W, 64, 3, 50, 4     float32 depth, type, x, y; 0
    bev_observation_tensor                     W, 64, 200, 200, 1  float32 entity types; 0
    map_observation_tensor                     W, 10000, 9         float32 x, y, half length, width, height, heading, type,
                                                                           id, map type; 0 with id and map type -1
    shape_tensor                               W, 2                int32   agents, road segments
    world_means_tensor                         W, 3                float32
    map_name_tensor, scenario_id_tensor        W, 32               int32   characters, then 0
    deleted_agents_tensor                      W, 64               int32   ids, then -1
    ========================================== =================== ======= ==============================================

    Lengths are metres, angles radians, speeds m/s; positions are relative to world_means, or to the agent where it sees
    them.  An agent that is out of the episode stands at (-11000, -11000), and z is the largest float.

    Nothing is computed for a tensor until its method is called.  The first call allocates its memory, which stays where
    it is (10 MB a world for bev_observation, under 0.5 MB for any other); each call fills it from the present state of
    all worlds.  So a view that is held shows what the last call wrote, and steps, resets and new scenes show after the
    next one.  What is written into a tensor changes no world.

    Not for use while another thread steps the env.
    """

    def __init__(self, worlds):
        self._worlds = worlds
        self._tensors = {}

    def _refreshed(self, name):
        if name not in self._tensors:
            self._tensors[name] = Tensor(new_tensor(name, self._worlds.num_worlds))
        tensor = self._tensors[name]
        fill(self._worlds, name, tensor.to_numpy())
        return tensor


for _name in TENSORS:
    setattr(Sim, f"{_name}_tensor", _method(_name))


def world_arrays(worlds, world, names=None):
    """See `fastvec.drive.Drive.raw`."""
    scene = worlds.scene_of(world)
    unknown = set(names or ()) - set(TENSORS)
    if unknown:
        raise ValueError(f"names holds {', '.join(map(repr, sorted(unknown)))}: expected some of {', '.join(TENSORS)}")
    names = [name for name in TENSORS if name not in ONLY_WHEN_NAMED] if names is None else names
    return {name: _of_one(worlds, world, scene, name) for name in names}


def _of_one(worlds, world, scene, name):
    if name == "map_name":
        return scene.scene_name
    if name == "scenario_id":
        return scene.scenario_id
    array = new_tensor(name, 1)
    fill(worlds, name, array, world)
    array = array[0]
    if name == "map_observation":
        return array[:len(scene.map_observation)]
    if name == "deleted_agents":
        return array[:len(scene.deleted)]
    if name not in PER_WORLD:
        array = array[:scene.num_agents]
    return array[..., 0] if array.shape[-1] == 1 else array
