"""SAM 2 video masks as entities (optional part of mu0-paper A.1), through transformers' `Sam2VideoModel`.

The embedded finder proposes pieces by motion and features; SAM 2 redraws each new piece with its own outline and carries it
through the representative frames. Identities across chunks come from the embedded finder.
"""

from __future__ import annotations

import cv2
import numpy as np
import torch

from traceworld.extras import require
from traceworld.perception import conventions
from traceworld.perception.backends.loading import as_weights, pick_device, pretrained
from traceworld.perception.conventions import Native
from traceworld.perception.entities import EntityFinder, EntityMaps
from traceworld.perception.interfaces import BackendInfo
from traceworld.perception.weights import Weights


class Sam2Entities:
    """Entities of the embedded finder, outlined and propagated by SAM 2.

    Args:
        weights: hub id or folder of a SAM 2 video model. seed: of the finder's clustering. max_entities: largest ones that
            are redrawn; memory and time grow with them.
    """

    native = Native(image="imagenet")

    def __init__(self, weights: Weights | str, seed: int = 0, max_entities: int = 16, device: str = "auto"):
        self._device = pick_device(device)
        self._model = pretrained("Sam2VideoModel", weights, self._device)
        self._session = require("transformers").Sam2VideoInferenceSession
        self._seed, self._max = seed, max_entities
        self.start()
        self.info = BackendInfo("entities", "sam2", "1", "", weights=as_weights(weights).source)

    def start(self) -> None:
        """See `EntityBackend`."""
        self._finder = EntityFinder(seed=self._seed)

    def find(
        self, images: np.ndarray, features: np.ndarray, motion: np.ndarray, displaced: np.ndarray | None = None
    ) -> EntityMaps:
        """See `EntityBackend`. A cell belongs to the entity with the highest mask logit above 0; what SAM 2 sees nowhere
        keeps the finder's own cells."""
        maps = self._finder.find(features, motion, displaced)
        coverage = maps.coverage()
        entities = sorted(coverage, key=lambda entity: (entity not in maps.moving, -coverage[entity], entity))[
            : self._max
        ]
        if not entities:
            return maps
        logits = self._propagate(images, maps.labels, entities)
        labels = maps.labels.copy()
        best, strength = logits.argmax(1), logits.max(1)
        seen = [i for i, _ in enumerate(entities) if ((best == i) & (strength > 0)).any()]
        for i in seen:
            labels[labels == entities[i]] = -1
        for i in seen:
            labels[(best == i) & (strength > 0)] = entities[i]
        return EntityMaps(labels, maps.moving)

    @torch.inference_mode()
    def _propagate(self, images: np.ndarray, labels: np.ndarray, entities: list[int]) -> np.ndarray:
        """Mask logits [R,E,h,w] on the feature grid: forward, then backward, from the frame where each entity is largest."""
        side = int(self._model.config.image_size)
        pixels = conventions.pixel_values(conventions.resize_images(images, (side, side)), self.native.image)
        grid = labels.shape[:0:-1]
        logits = np.full((len(images), len(entities), *labels.shape[1:]), -np.inf, np.float32)
        for i, entity in enumerate(entities):
            start = int((labels == entity).sum((1, 2)).argmax())
            for reverse in (False, True):
                session = self._begin(pixels, images.shape[1:3], labels[start] == entity, start)
                for answer in self._model.propagate_in_video_iterator(session, start, reverse=reverse):
                    mask = answer.pred_masks[0, 0].float().cpu().numpy()
                    logits[answer.frame_idx, i] = cv2.resize(mask, grid, interpolation=cv2.INTER_AREA)
        return logits

    def _begin(self, pixels: np.ndarray, shape: tuple[int, ...], cells: np.ndarray, start: int):
        """A session with one object, prompted by its cells on frame `start`."""
        video = torch.from_numpy(pixels).permute(0, 3, 1, 2)
        session = self._session(
            video=video,
            video_height=shape[0],
            video_width=shape[1],
            inference_device=self._device,
            inference_state_device=self._device,
            dtype=next(self._model.parameters()).dtype,
        )
        side = pixels.shape[1]
        mask = cv2.resize(cells.astype(np.float32), (side, side), interpolation=cv2.INTER_NEAREST)
        index = session.obj_id_to_idx(1)
        session.add_mask_inputs(index, start, torch.from_numpy(mask)[None, None])
        session.obj_with_new_inputs = [1]
        self._model(session, frame_idx=start)
        return session
