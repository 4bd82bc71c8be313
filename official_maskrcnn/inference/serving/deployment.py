"""The deployment file of the Azure object detection accelerator, as far as it says how to serve."""

import difflib
from typing import Any

import pydantic

from official_maskrcnn.errors import UserError
from official_maskrcnn.files import read_json


class _Part(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(extra="forbid", strict=True)


class _Aci(_Part):
    USE_ACI: bool = False
    ACI_AUTH: bool = True


class _Aks(_Part):
    USE_AKS: bool = False
    VM_TYPE: str = ""
    COMPUTE_TARGET_NAME: str = ""


class Deployment(_Part):
    """A deployment file.

    Attributes:
      IMAGE_TYPE: name of the model; masks are answered if "mask" is part of it.
      TF_VERSION: of TensorFlow; 2.
      ACI_PARAMS: a container instance, and whether it asks for a key.
      AKS_PARAMS: a Kubernetes cluster, which always does.
      ENV_CONFIG_FILE: with EXPERIMENT, RUN_ID and REG_MODEL, what to take out of Azure's registry;
        a service has its model already.
      USE_ACI: as in ACI_PARAMS; of an older form of the file, as is COMPUTE_TARGET_NAME.
    """

    IMAGE_TYPE: str
    TF_VERSION: int = 2
    ACI_PARAMS: _Aci = _Aci()
    AKS_PARAMS: _Aks = _Aks()
    ENV_CONFIG_FILE: str = ""
    EXPERIMENT: str = ""
    RUN_ID: str = ""
    REG_MODEL: bool = False
    USE_ACI: bool = False
    COMPUTE_TARGET_NAME: str = ""

    @property
    def has_masks(self) -> bool:
        """Whether an answer has masks."""
        return "mask" in self.IMAGE_TYPE.lower()

    @property
    def needs_token(self) -> bool:
        """Whether a request must bear a token."""
        uses_aci = self.ACI_PARAMS.USE_ACI or self.USE_ACI
        return self.AKS_PARAMS.USE_AKS or (uses_aci and self.ACI_PARAMS.ACI_AUTH)


def read_deployment(path: str) -> Deployment:
    """Reads a deployment file.

    Raises:
      UserError: it cannot be read, or asks for what there is not; with all faults at once.
    """
    content = read_json(path)
    try:
        deployment = Deployment.model_validate(content)
    except pydantic.ValidationError as error:
        lines = [f"\n  {_describe(entry)}" for entry in error.errors()]
        raise UserError(f"faults in {path}:{''.join(lines)}") from error
    if deployment.TF_VERSION != 2:
        raise UserError(f"{path}: TF_VERSION is {deployment.TF_VERSION}; models here are of 2")
    if deployment.ACI_PARAMS.USE_ACI and deployment.AKS_PARAMS.USE_AKS:
        raise UserError(f"{path}: USE_ACI and USE_AKS are both true; a service runs on one of them")
    return deployment


def _describe(fault: Any) -> str:
    """A fault that pydantic found, in a line."""
    place = ".".join(str(part) for part in fault["loc"]) or "the file"
    if fault["type"] == "missing":
        return f"{place} is missing"
    if fault["type"] == "extra_forbidden":
        parts: dict[str, type[_Part]] = {"ACI_PARAMS": _Aci, "AKS_PARAMS": _Aks}
        part = parts.get(str(fault["loc"][0]), Deployment)
        near = difflib.get_close_matches(str(fault["loc"][-1]), part.model_fields, n=1)
        hint = f"; did you mean {near[0]}?" if near else ""
        return f"{place} is not known{hint}"
    text = fault["msg"][:1].lower() + fault["msg"][1:]
    return f"{place}: {text}, got {str(fault['input'])[:100]!r}"
