"""What a slice of TPUs is made of: replicas, their memory and their speed, by the slice's name."""

import dataclasses
import re

from official_maskrcnn.errors import UserError

GIB = 2**30


@dataclasses.dataclass(frozen=True)
class Generation:
    """A generation of TPUs; all but the names is of one chip.

    Attributes:
      counted: what the number in a slice's name counts, "TensorCores" or "chips".
      tensor_cores: TensorCores.
      devices: replicas of a training; the two TensorCores of a v4 or v5p chip are one of them.
      peak_teraflops: of products of bfloat16, which is also how float32 is multiplied by default.
      hbm_gib: memory.
      bandwidth_gbps: of the memory, in 10**9 bytes a second.
      compiler_topology: four chips, as the compiler calls them.
      max_chips: of the largest slice.
      chip_config: the compiler's name for the chip with these devices, if it takes others unasked.
    """

    counted: str
    tensor_cores: int
    devices: int
    peak_teraflops: float
    hbm_gib: int
    bandwidth_gbps: float
    compiler_topology: str
    max_chips: int
    chip_config: str = ""


# Google Cloud's documentation, pages cloud.google.com/tpu/docs/v2, v3, v4, v5e, v5p and v6e.
GENERATIONS = {
    "v2": Generation("TensorCores", 2, 2, 45, 16, 700, "v2:2x2x1", 256),
    "v3": Generation("TensorCores", 2, 2, 123, 32, 900, "v3:2x2x1", 1024),
    "v4": Generation("TensorCores", 2, 1, 275, 32, 1200, "v4:2x2x1", 4096, "megacore"),
    "v5e": Generation("chips", 1, 1, 197, 16, 819, "v5e:2x2", 256),
    "v5p": Generation("TensorCores", 2, 1, 459, 95, 2765, "v5p:2x2x1", 6144),
    "v6e": Generation("chips", 1, 1, 918, 32, 1640, "v6e:2x2", 256),
}


@dataclasses.dataclass(frozen=True)
class Topology:
    """A slice of TPUs.

    Attributes:
      name: such as v3-32.
      generation: what it is made of.
      chips: in the slice.
    """

    name: str
    generation: Generation
    chips: int

    @property
    def devices(self) -> int:
        """Replicas of a training."""
        return self.chips * self.generation.devices

    @property
    def device_name(self) -> str:
        """What one replica runs on: "core", or "chip" where a chip is one device."""
        return "chip" if self.generation.devices == 1 else "core"

    @property
    def hbm_bytes(self) -> int:
        """Memory of a device."""
        return self.generation.hbm_gib * GIB // self.generation.devices

    @property
    def peak_flops(self) -> float:
        """FLOPs that a device can do in a second, in bfloat16."""
        return self.generation.peak_teraflops * 1e12 / self.generation.devices

    @property
    def bandwidth(self) -> float:
        """Bytes that a device can read or write in a second."""
        return self.generation.bandwidth_gbps * 1e9 / self.generation.devices

    def per_device(self, global_batch_size: int, field: str) -> int:
        """Images of a batch that one device gets.

        Raises:
          UserError: they are no whole number; `field` is what has to change.
        """
        if global_batch_size % self.devices:
            raise UserError(
                f"{field} ({global_batch_size}) must be a multiple of the {self.devices} "
                f"{self.device_name}s of {self.name}"
            )
        return global_batch_size // self.devices


def parse_topology(name: str) -> Topology:
    """The slice that a name such as v3-32 or v5e-16 means; v5litepod-16 is v5e-16.

    Raises:
      UserError: there is no such slice.
    """
    match = re.fullmatch(r"(v\w+?)-(\d+)", name.replace("v5litepod", "v5e"))
    if match is None or match[1] not in GENERATIONS:
        raise UserError(
            f"unknown topology {name!r}; accepts a generation ({', '.join(GENERATIONS)}) and a "
            "number, such as v3-32 or v5e-16"
        )
    generation, number = GENERATIONS[match[1]], int(match[2])
    cores = generation.tensor_cores if generation.counted == "TensorCores" else 1
    chips = number // cores
    if number % cores or not 1 <= chips <= generation.max_chips:
        raise UserError(
            f"there is no {name}: the number counts {generation.counted}, at most "
            f"{generation.max_chips * cores}, in whole chips of {cores}"
        )
    return Topology(f"{match[1]}-{number}", generation, chips)
