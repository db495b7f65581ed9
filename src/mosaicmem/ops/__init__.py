"""The paper's operators as functions on tensors. They know no store and no model.

| module | what it says |
|---|---|
| `rope` | rotary embedding at real-valued (t, y, x) positions |
| `prope` | projective positional encoding: per-token cameras inside attention, three layouts |
| `warped_rope` | Eq. 2 and the choice of source patches: memory as re-addressed tokens |
| `warped_latent` | the backward gather with its agreement test: memory as re-sampled tokens |
| `attention` | the door that models use: raw cached keys, memory keys, padding |
| `reference` | each of them again, slow and obvious |

The tests of this room name the laws they assert: G1-G4, G6 (for single points and patches), A2, A5, P1-P6, W1. These
belong to a transformer and are asserted there, since no operator alone can break or keep them:

- A1: no memory, or a mosaic of holes only, equals the camera-only model (its attention-level half, that absent and
  padded keys change nothing, is asserted here);
- A3: memory rows receive no text, no loss, and the embedding of time 0;
- A4: without memory and cameras the forward pass is that of the stock backbone;
- T1-T4: what training and inference feed in.

G5 and the coverage half of G1 and G3 concern whole mosaics and belong to `memory`.
"""
