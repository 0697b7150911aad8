"""What a server allows."""

from __future__ import annotations

from dataclasses import dataclass

from szilard.options import check_number


@dataclass(frozen=True)
class ServerSettings:
    """Limits of a server. Every one is told in the error of a request that meets it.

    Attributes:
        max_batch: requests that are decoded together.
        wait_ms: how long the first request of a batch waits for others, in milliseconds.
        max_queue: requests that may wait; more are answered with 429.
        deadline_s: seconds from arrival to the end of the answer; later the answer is cut (finish_reason "length").
        max_prompt_tokens: None: what the context window allows.
        max_new_tokens: the most that a request may ask for.
        default_new_tokens: where a request does not say.
        max_choices: of `n`.
        max_body_bytes: of a request.
        max_images: per request.
        max_image_pixels: of one image, counted before it is decoded.
        max_waiting_pixels: of the images of all requests that wait, and of those of one request.
        cors_origins: web pages of other origins that may call the server; none by default.
        hosts: names under which the server may be asked (the Host header); empty: any. A page that makes its own name
            point to 127.0.0.1 is kept out by it.
        log_prompts: whether the log holds what is asked.
    """

    max_batch: int = 16
    wait_ms: float = 5.0
    max_queue: int = 256
    deadline_s: float = 300.0
    max_prompt_tokens: int | None = None
    max_new_tokens: int = 2048
    default_new_tokens: int = 256
    max_choices: int = 8
    max_body_bytes: int = 16 * 2**20
    max_images: int = 8
    max_image_pixels: int = 16_777_216
    max_waiting_pixels: int = 134_217_728
    cors_origins: tuple[str, ...] = ()
    hosts: tuple[str, ...] = ()
    log_prompts: bool = False

    def __post_init__(self) -> None:
        for name in ("max_batch", "max_new_tokens", "default_new_tokens", "max_choices", "max_body_bytes", "max_queue"):
            check_number(name, getattr(self, name), low=1, integer=True)
        for name in ("max_images", "max_image_pixels", "max_waiting_pixels"):
            check_number(name, getattr(self, name), low=0, integer=True)
        check_number("max_prompt_tokens", self.max_prompt_tokens, low=1, integer=True, optional=True)
        check_number("wait_ms", self.wait_ms, low=0, high=10_000)
        check_number("deadline_s", self.deadline_s, low=0.01, high=86_400)
