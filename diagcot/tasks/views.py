"""Which images of a study one sample shows.

With the policy `image` each image is a sample with the report of its study, as in the released data of DiagCoT
(arXiv:2509.06409, github.com/TMLSIAT/DiagCoT-main). With `study` all images of a study are one sample: reports are not
repeated and the samples of a test set are independent.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from diagcot.data.study import Image, Study
from diagcot.tasks import prompts
from diagcot.tasks.samples import ImageRef, Sample

if TYPE_CHECKING:
    from diagcot.shards.reader import Shard

ViewPolicy = Literal["image", "study"]


@dataclass(frozen=True)
class StudyView:
    """A study and those of its images that a sample shows, each with its row in the shard."""

    study: Study
    images: tuple[tuple[Image, int], ...]
    whole: bool = False  # true where the policy shows all images of the study

    def sample(self, task: str, ref_name: str, prompt: str, answer: str, what: str = "", **meta: Any) -> Sample:
        """A sample of these images. Its id names the last image, except where the sample shows the whole study."""
        image, study = self.images[-1][0], self.study.key
        name = study if self.whole else f"{study}/{image.id}"
        return Sample(
            id=name + (f":{what}" if what else ""),
            task=task,
            study=study,
            images=tuple(ImageRef(ref_name, row) for _, row in self.images),
            messages=(("user", prompts.with_image_tags(prompt, len(self.images))), ("assistant", answer)),
            meta={
                "patient": f"{self.study.dataset}/{self.study.patient}",
                "view": image.view,
                "phantom": any(shown.phantom for shown, _ in self.images),
                **meta,
            },
            dataset=self.study.dataset,
        )


def study_views(shard: "Shard", split: str, policy: ViewPolicy = "image") -> Iterator[StudyView]:
    """The studies of a split in the shard's order: one view for each image, or one view with all images."""
    for i in range(len(shard)):
        if shard.split(i) == split:
            study = shard.study(i)
            images = tuple(zip(study.images, shard.rows(i), strict=True))
            if policy == "study":
                yield StudyView(study, images, whole=True)
            else:
                yield from (StudyView(study, (image,)) for image in images)
