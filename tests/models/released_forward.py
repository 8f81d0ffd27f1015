"""The released μ0's prediction, written plainly from the dossier (§1.3-1.6, §4.1): one observation, one long sequence under a
mask, the whole prefix at every step, no sharing. Reads the released state dict by its own names. Nothing of `traceworld`."""

import math

import torch
from released_mu0 import LM, VT, Shape, W
from torch.nn import functional as F

TURBO = {
    "r": (0.13572138, 4.61539260, -42.66032258, 132.13108234, -152.94239396, 59.28637943),
    "g": (0.09140261, 2.19418839, 4.84296658, -14.18503333, 4.27729857, 2.82956604),
    "b": (0.10667330, 12.64194608, -60.58204836, 110.36276771, -89.90310912, 27.34824973),
}


class Released:
    """The model: tensors by released name, as float32."""

    def __init__(self, tensors, s: Shape, depth_log_range, s_delta):
        self.t = {key: value.float() for key, value in tensors.items()}
        self.s, self.depth_log_range, self.s_delta = s, depth_log_range, torch.tensor(s_delta)

    def linear(self, x, name):
        y = x @ self.t[f"{name}.weight"].T
        bias = self.t.get(f"{name}.bias")
        return y if bias is None else y + bias

    def adapted(self, x, name, lora):
        y = self.linear(x, f"{name}.base_layer")
        if lora:
            low = x @ self.t[f"{name}.lora_A.default.weight"].T
            y = y + 16 / self.s.rank * (low @ self.t[f"{name}.lora_B.default.weight"].T)
        return y

    def layer_norm(self, x, name, eps=1e-6):
        centred = x - x.mean(-1, keepdim=True)
        scaled = centred / (centred.square().mean(-1, keepdim=True) + eps).sqrt()
        return scaled * self.t[f"{name}.weight"] + self.t[f"{name}.bias"]

    def rms_norm(self, x, name):
        return x / (x.square().mean(-1, keepdim=True) + 1e-5).sqrt() * self.t[f"{name}.weight"]

    # pictures

    def square(self, picture, side):
        """[3,H,W] → [3,side,side], plain bilinear."""
        if picture.shape[1:] == (side, side):
            return picture
        return F.interpolate(picture[None], (side, side), mode="bilinear", align_corners=False)[0]

    def turbo(self, depth_m):
        low, high = self.depth_log_range
        picture = torch.zeros(3, *depth_m.shape)
        for y in range(depth_m.shape[0]):
            for x in range(depth_m.shape[1]):
                d = float(depth_m[y, x])
                index = 0
                if math.isfinite(d) and d > 1e-3:
                    far = (math.log(min(max(d, math.exp(low)), math.exp(high))) - low) / (high - low)
                    index = min(max(int(255 * (1 - far)), 0), 255)
                for channel, coefficients in enumerate(TURBO.values()):
                    value = sum(c * (index / 255) ** k for k, c in enumerate(coefficients))
                    picture[channel, y, x] = min(max(value, 0), 1)
        return picture

    def patches(self, picture, name, size):
        weight, bias = self.t[f"{name}.weight"].flatten(1), self.t[f"{name}.bias"]
        rows = []
        for y in range(picture.shape[1] // size):
            for x in range(picture.shape[2] // size):
                patch = picture[:, y * size : (y + 1) * size, x * size : (x + 1) * size]
                rows.append(weight @ patch.flatten() + bias)
        return torch.stack(rows)

    def attention(self, q, k, v, heads, kv_heads, mask=None):
        """[Lq,heads*d], [Lk,kv_heads*d] → [Lq,heads*d], head by head."""
        d = q.shape[1] // heads
        out = []
        for head in range(heads):
            shared = head // (heads // kv_heads)
            qh, kh, vh = (x[:, i * d : (i + 1) * d] for x, i in ((q, head), (k, shared), (v, shared)))
            scores = qh @ kh.T / math.sqrt(d)
            if mask is not None:
                scores = scores.masked_fill(~mask, torch.finfo(torch.float32).min)
            out.append(scores.softmax(-1) @ vh)
        return torch.cat(out, dim=1)

    def siglip(self, picture, depth):
        """§1.4: patches, bucketed positions, layers, pixel shuffle, connector; depth through its stem and adapters."""
        s = self.s
        stem = f"{W}_depth_patch_embedding" if depth else f"{VT}embeddings.patch_embedding"
        side = s.image // s.patch
        x = self.patches(picture * 2 - 1, stem, s.patch)
        bucket = [s.grid * i // side for i in range(side)]
        ids = [bucket[i] * s.grid + bucket[j] for i in range(side) for j in range(side)]
        x = x + self.t[f"{VT}embeddings.position_embedding.weight"][ids]
        for i in range(s.vision_layers):
            at = f"{VT}encoder.layers.{i}."
            y = self.layer_norm(x, f"{at}layer_norm1")
            q, k, v = (self.adapted(y, f"{at}self_attn.{n}_proj", depth) for n in "qkv")
            found = self.attention(q, k, v, s.vision_heads, s.vision_heads)
            x = x + self.adapted(found, f"{at}self_attn.out_proj", depth)
            y = self.adapted(self.layer_norm(x, f"{at}layer_norm2"), f"{at}mlp.fc1", depth)
            x = x + self.adapted(F.gelu(y, approximate="tanh"), f"{at}mlp.fc2", depth)
        x = self.layer_norm(x, f"{VT}post_layernorm").reshape(side, side, -1)
        tokens = []
        for i in range(0, side, s.shuffle):
            for j in range(0, side, s.shuffle):
                block = [x[i + di, j + dj] for di in range(s.shuffle) for dj in range(s.shuffle)]
                tokens.append(torch.cat(block))
        return self.linear(torch.stack(tokens), f"{W}vlm.model.connector.modality_projection.proj")

    def dino(self, rgb, uv):
        """§1.5: last hidden state's patches at each (u, v); bilinear, zero outside."""
        s = self.s
        mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
        picture = (self.square(rgb, s.dino_input) - mean[:, None, None]) / std[:, None, None]
        x = self.patches(picture, "model.dino.embeddings.patch_embeddings.projection", s.dino_patch)
        x = torch.cat([self.t["model.dino.embeddings.cls_token"][0], x])
        x = x + self.t["model.dino.embeddings.position_embeddings"][0]
        for i in range(s.dino_layers):
            at = f"model.dino.encoder.layer.{i}."
            y = self.layer_norm(x, f"{at}norm1")
            q, k, v = (self.linear(y, f"{at}attention.attention.{n}") for n in ("query", "key", "value"))
            found = self.linear(self.attention(q, k, v, s.dino_heads, s.dino_heads), f"{at}attention.output.dense")
            x = x + found * self.t[f"{at}layer_scale1.lambda1"]
            y = F.gelu(self.linear(self.layer_norm(x, f"{at}norm2"), f"{at}mlp.fc1"))
            x = x + self.linear(y, f"{at}mlp.fc2") * self.t[f"{at}layer_scale2.lambda1"]
        side = s.dino_input // s.dino_patch
        cells = self.layer_norm(x, "model.dino.layernorm")[1:].reshape(side, side, -1)
        out = torch.zeros(len(uv), s.dino)
        for n, (u, v) in enumerate(uv.tolist()):
            x_at, y_at = ((u + 1) * side - 1) / 2, ((v + 1) * side - 1) / 2
            for x_cell in (math.floor(x_at), math.floor(x_at) + 1):
                for y_cell in (math.floor(y_at), math.floor(y_at) + 1):
                    if 0 <= x_cell < side and 0 <= y_cell < side:
                        weight = (1 - abs(x_at - x_cell)) * (1 - abs(y_at - y_cell))
                        out[n] += weight * cells[y_cell, x_cell]
        return out

    # prefix

    def rope(self, x, heads, positions):
        """[L,heads*d], half-split, base 10,000."""
        d = x.shape[1] // heads
        angle = positions[:, None].float() * 10_000.0 ** (-torch.arange(0, d, 2) / d)
        out = []
        for head in range(heads):
            a, b = x[:, head * d : head * d + d // 2], x[:, head * d + d // 2 : (head + 1) * d]
            out += [a * angle.cos() - b * angle.sin(), b * angle.cos() + a * angle.sin()]
        return torch.cat(out, dim=1)

    def prefix(self, rgb, depth_m, ids, id_mask):
        """Per layer the rotated keys and the values, and the mask. All rows see all rows that are there."""
        s = self.s
        blocks, masks = [self.siglip(rgb, depth=False)], [torch.ones((s.image // s.patch // s.shuffle) ** 2)]
        picture = torch.zeros(3, s.image, s.image)  # absent depth is encoded all the same, and masked
        if depth_m is not None:
            picture = self.square(self.turbo(depth_m), s.image)
        blocks.append(self.siglip(picture, depth=True))
        masks.append(torch.full_like(masks[0], depth_m is not None))
        blocks.append(self.t[f"{LM}embed_tokens.weight"][ids])
        masks.append(id_mask.float())
        x, mask = torch.cat(blocks) * math.sqrt(s.text), torch.cat(masks).bool()
        positions = mask.long().cumsum(0) - 1
        keys, values = [], []
        for i in range(s.layers):
            at = f"{LM}layers.{i}."
            y = self.rms_norm(x, f"{at}input_layernorm")
            q, k, v = (self.linear(y, f"{at}self_attn.{n}_proj") for n in "qkv")
            q, k = self.rope(q, s.heads, positions), self.rope(k, s.kv_heads, positions)
            keys.append(k)
            values.append(v)
            x = x + self.linear(self.attention(q, k, v, s.heads, s.kv_heads, mask), f"{at}self_attn.o_proj")
            y = self.rms_norm(x, f"{at}post_attention_layernorm")
            gate, up = self.linear(y, f"{at}mlp.gate_proj"), self.linear(y, f"{at}mlp.up_proj")
            x = x + self.linear(F.silu(gate) * up, f"{at}mlp.down_proj")
        return keys, values, mask

    # expert

    def tokens(self, history, noisy, uv, dino):
        """[hist_n, cp_n] for each keypoint n."""
        fourier = []
        for c in range(2):
            angle = uv[:, c, None] * math.pi * 2.0 ** torch.arange(8)
            fourier += [angle.sin(), angle.cos()]
        place = F.silu(self.linear(torch.cat(fourier, 1), "model.trace_uv_pos_mlp.0"))
        place = self.linear(place, "model.trace_uv_pos_mlp.2")
        out = []
        for n in range(len(uv)):
            lifted = (
                self.linear(history[n].flatten(), "model.trace_in_proj_history"),
                self.linear(noisy[n].flatten(), "model.trace_in_proj_future"),
            )
            for group, token in enumerate(lifted):
                token = token + self.t["model.trace_time_embedding.weight"][group]
                token = token + self.t["model.trace_seg_embedding.weight"][group] + place[n]
                hidden = F.silu(self.linear(torch.cat([token, dino[n]]), "model.trace_dino_fuse_in"))
                out.append(self.linear(hidden, "model.trace_dino_fuse_out"))
        return torch.stack(out)

    def condition(self, tau):
        period = 4e-3 * (4.0 / 4e-3) ** (torch.arange(128) / 127)
        angle = 2 * math.pi * tau / period
        hidden = F.silu(self.linear(torch.cat([angle.sin(), angle.cos()]), "model.trace_timestep_embedder.mlp.0"))
        return self.linear(hidden, "model.trace_timestep_embedder.mlp.2")

    def denoise(self, noisy, tau, history, shown, uv, dino, prefix):
        """Velocity [N,D,3] and validity logits [N,H]. `shown`: history is given."""
        s, N = self.s, len(uv)
        keys, values, prefix_mask = prefix
        x, condition = self.tokens(history, noisy, uv, dino), self.condition(tau)
        is_history = torch.arange(2 * N) % 2 == 0
        there = ~is_history | shown
        own = there[None, :] & there[:, None] & (~is_history[:, None] | is_history[None, :])
        end, zero = torch.full((2 * N,), int(prefix_mask.sum())), torch.zeros(2 * N, dtype=torch.long)
        for i in range(s.layers):
            at = f"{W}lm_expert.layers.{i}."
            six = self.linear(F.silu(condition), f"model.trace_adaln_modulation.{i}.1").chunk(6)
            y = self.rms_norm(x, f"{at}input_layernorm") * (1 + six[1]) + six[0]
            q = self.linear(y, f"{at}self_attn.q_proj")
            if i % 2 == 0:
                q, own_key = self.rope(q, s.heads, end), self.linear(y, f"{at}self_attn.k_proj")
                k = torch.cat([keys[i], self.rope(own_key, s.kv_heads, end)])
                v = torch.cat([values[i], self.linear(y, f"{at}self_attn.v_proj")])
                mask = torch.cat([prefix_mask.expand(2 * N, -1), own], dim=1)
            else:
                q = self.rope(q, s.heads, zero)
                k, v = self.linear(keys[i], f"{at}self_attn.k_proj"), self.linear(values[i], f"{at}self_attn.v_proj")
                mask = prefix_mask.expand(2 * N, -1)
            found = self.attention(q, k, v, s.heads, s.kv_heads, mask)
            x = x + six[2] * self.linear(found, f"{at}self_attn.o_proj")
            y = self.rms_norm(x, f"{at}post_attention_layernorm") * (1 + six[4]) + six[3]
            hidden = F.silu(self.linear(y, f"{at}mlp.gate_proj")) * self.linear(y, f"{at}mlp.up_proj")
            x = x + six[5] * self.linear(hidden, f"{at}mlp.down_proj")
        control = self.rms_norm(x, f"{W}lm_expert.norm")[1::2]
        velocity = self.linear(control, "model.trace_out_proj_future").reshape(N, s.D, 3)
        return velocity, self.linear(control, "model.trace_done_proj_bsp")

    def curve(self, controls):
        """Bézier pieces of [D,3] at t = i/H, i = 1..H."""
        pieces = (self.s.D - 1) // 3
        out = []
        for step in range(1, self.s.H + 1):
            t = step / self.s.H * pieces
            piece = min(int(t), pieces - 1)
            a = t - piece
            weights = ((1 - a) ** 3, 3 * a * (1 - a) ** 2, 3 * a * a * (1 - a), a**3)
            out.append(sum(w * controls[3 * piece + k] for k, w in enumerate(weights)))
        return torch.stack(out)

    @torch.no_grad()
    def predict(self, image, depth_m, ids, id_mask, anchor_uvz, history, noise):
        """Absolute trace [N,H,3] and validity [N,H] of one sample.

        image [H,W,3] uint8; depth_m [H,W] or None; history [N,h,3] relative to the anchor (zeros where unknown) or None.
        """
        s, N = self.s, len(anchor_uvz)
        rgb = self.square(image.permute(2, 0, 1).float() / 255, s.image)
        uv, shown = anchor_uvz[:, :2], history is not None
        history = torch.zeros(N, s.h, 3) if history is None else history
        x = noise
        for tau in (1.0, 0.75, 0.5, 0.25):
            prefix, dino = self.prefix(rgb, depth_m, ids, id_mask), self.dino(rgb, uv)
            velocity, logits = self.denoise(x, tau, history, shown, uv, dino, prefix)
            x = x - 0.25 * velocity
        trace = torch.stack([self.curve(x[n]) for n in range(N)]) * self.s_delta + anchor_uvz[:, None]
        return trace, logits.sigmoid()
