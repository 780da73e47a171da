"""The linear head: multinomial logistic regression with an L2 penalty, solved to convergence.

The penalty covers the bias too, so that the objective is strictly convex and its minimum unique: two machines that
see the same embeddings find the same head.
"""

import numpy as np

GRADIENT_LIMIT = 1e-9
MAX_STEPS = 100


def fit(x: np.ndarray, y: np.ndarray, classes: int, penalty: float, start: np.ndarray | None = None) -> np.ndarray:
    """Head [classes, dimension + 1], the bias last, that minimises

        mean over rows of -log softmax(head · [x, 1])[y]  +  penalty / 2 · |head - start|²

    `x` is [rows, dimension], `y` the class of each row, `start` the head that the penalty pulls to (zero if None).
    Raises `RuntimeError` where Newton's method does not converge.
    """
    x = np.hstack([np.asarray(x, np.float64), np.ones((len(x), 1))])
    truth = np.eye(classes)[y]
    start = np.zeros((classes, x.shape[1])) if start is None else start.astype(np.float64)
    head = start
    loss, gradient, p = _objective(x, truth, head, start, penalty)
    for _ in range(MAX_STEPS):
        if np.abs(gradient).max() < GRADIENT_LIMIT:
            return head
        direction = _newton_direction(x, p, gradient, penalty)
        slope = np.sum(direction * gradient)
        step = 1.0
        while True:
            candidate = head + step * direction
            new_loss, new_gradient, new_p = _objective(x, truth, candidate, start, penalty)
            # Near the minimum the loss no longer resolves progress; there a full step is right.
            if new_loss <= loss + 1e-4 * step * slope or abs(slope) < 1e-12:
                break
            step /= 2
        head, loss, gradient, p = candidate, new_loss, new_gradient, new_p
    raise RuntimeError(f"no convergence: gradient {np.abs(gradient).max():.1e} after {MAX_STEPS} steps")


def softmax(logits: np.ndarray) -> np.ndarray:
    """Row by row."""
    e = np.exp(logits - logits.max(axis=1, keepdims=True))
    return e / e.sum(axis=1, keepdims=True)


def logits(x: np.ndarray, head: np.ndarray) -> np.ndarray:
    """[rows, classes] in float64."""
    return np.asarray(x, np.float64) @ head[:, :-1].T + head[:, -1]


def _objective(x, truth, head, start, penalty):
    z = x @ head.T
    z -= z.max(axis=1, keepdims=True)
    log_p = z - np.log(np.exp(z).sum(axis=1, keepdims=True))
    p = np.exp(log_p)
    away = head - start
    loss = -(truth * log_p).sum() / len(x) + penalty / 2 * np.sum(away * away)
    return loss, (p - truth).T @ x / len(x) + penalty * away, p


def _newton_direction(x, p, gradient, penalty):
    """Solves Hessian · direction = -gradient by conjugate gradients, as exactly as the gradient is small."""
    size = np.sqrt(np.sum(gradient * gradient))
    tolerance = size * min(0.1, np.sqrt(size))
    direction = np.zeros_like(gradient)
    residual = -gradient
    search = residual
    square = np.sum(residual * residual)
    while np.sqrt(square) > tolerance:
        v = x @ search.T
        curved = (p * (v - (p * v).sum(axis=1, keepdims=True))).T @ x / len(x) + penalty * search
        length = square / np.sum(search * curved)
        direction = direction + length * search
        residual = residual - length * curved
        new_square = np.sum(residual * residual)
        search = residual + new_square / square * search
        square = new_square
    return direction
