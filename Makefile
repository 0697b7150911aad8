# Every target makes and reuses .venv in this checkout; nothing else need be installed but Python >= 3.10 and a C++
# compiler (llama-cpp-python builds itself once; pip keeps the wheel).
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
# Matrix tiles that a virtual machine announces but cannot run end llama.cpp in a crash: leave them out there.
ifneq ($(shell grep -sw amx_int8 /proc/cpuinfo),)
  export CMAKE_ARGS ?= -DCMAKE_C_FLAGS=-mno-amx-int8 -DCMAKE_CXX_FLAGS=-mno-amx-int8
endif
# pip keeps the llama.cpp that it built, for whatever processor that was: one that cannot decode here is built again.
DECODES = $(BIN)/szilard generate --engine llama.cpp --max-new-tokens 1 "Hi" >/dev/null
REBUILD = $(BIN)/python -m pip cache remove llama_cpp_python; CMAKE_ARGS="$(or $(CMAKE_ARGS),-DGGML_NATIVE=OFF)" \
  $(BIN)/python -m pip install -q -c requirements-dev.txt --no-deps --force-reinstall \
  --no-binary llama-cpp-python llama-cpp-python
METHODS := greedy,sampling,soft-thinking,lead

.PHONY: demo test test-all lint docs docs-pictures audit bench bench-serve bench-diffusion bench-compression bench-reasoning bench-training bench-representation bench-codecs fuzz-codec zoo zoo-latent zoo-llmlingua2 zoo-vlm zoo-diffusion zoo-drafters zoo-recall zoo-codecs bench-compiled test-quantized reproduce reproduction performance clean

$(READY): requirements-dev.txt pyproject.toml zoo/pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -q -r requirements-dev.txt -e ./zoo -e '.[demo]'
	$(DECODES) || { $(REBUILD); $(DECODES); }
	touch $@

demo: $(READY)  ## the main job: think with and without latent decoding, side by side; writes demo.html
	$(BIN)/szilard compare --methods $(METHODS) --set sampling.temperature=0.7 --set sampling.top_p=0.9 --seed 1 \
	  --max-new-tokens 96 --html demo.html \
	  "A train travels 60 miles in 1.5 hours. What is its average speed in miles per hour? Think step by step." \
	  "Tom has 3 boxes with 12 pencils each and gives away 7 pencils. How many are left? Think step by step." \
	  "Why is the sky blue?"

# Processes that share the tests.
WORKERS ?= 2
test: $(READY)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(WORKERS) --dist loadfile -m "not slow"

test-all: $(READY)  ## the slow ones too
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(WORKERS) --dist loadfile

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

docs: $(READY)  ## the documentation site, into build/site; for its search: python -m http.server -d build/site
	$(BIN)/python -m pip install -q -r requirements-docs.txt
	$(BIN)/mkdocs build --strict

docs-pictures: $(READY)  ## traces, texts, grids and charts of the methods, for their pages (ten minutes)
	$(BIN)/python benchmarks/learn2pd_filter.py -o build/learn2pd
	for part in pictures words grids charts; do $(BIN)/python benchmarks/method_$$part.py; done

audit: $(READY)  ## known vulnerabilities of the pinned packages; asks PyPI
	$(BIN)/python -m pip install -q pip-audit
	$(BIN)/pip-audit -r requirements-dev.txt --no-deps --disable-pip

bench: $(READY)  ## speed against transformers' generate and llama-cpp-python's own loop
	$(BIN)/python benchmarks/decoding_speed.py --save
	$(BIN)/python benchmarks/llama_cpp_speed.py --save

bench-serve: $(READY)  ## the server under load, beside transformers' own, and a replica killed on Ray (half an hour); needs the extras serve and ray, httpx and psutil
	for part in throughput mixed open peer; do $(BIN)/python benchmarks/serve_load.py --part $$part --save; done
	$(BIN)/python benchmarks/serve_load.py --part soak --seconds 300 --save
	$(BIN)/python benchmarks/serve_ray_kill.py --save

bench-diffusion: $(READY)  ## rules that fill a canvas (an hour or two), Learn2PD's filter trained before
	$(BIN)/python benchmarks/learn2pd_filter.py -o build/learn2pd
	$(BIN)/python benchmarks/diffusion_parallelbench.py --model exact
	$(BIN)/python benchmarks/diffusion_parallelbench.py --filter build/learn2pd
	$(BIN)/python benchmarks/localleap_text.py --filter build/learn2pd
	$(BIN)/python benchmarks/window_text.py
	$(BIN)/python benchmarks/diffusion_speed.py --save
	$(BIN)/python benchmarks/canvas_animation.py

bench-compression: $(READY)  ## contexts in fewer tokens or positions (an hour or two); pass DATA=folder, ENCODER=folder or hub id of MiniLM
	$(BIN)/python benchmarks/llmlingua2_training.py --data $(DATA) --encoder $(ENCODER)
	$(BIN)/python benchmarks/compression_tasks.py gsm8k --data $(DATA)
	$(BIN)/python benchmarks/compression_tasks.py needle --data $(DATA)
	$(BIN)/python benchmarks/arc_encoder_training.py tiny -o build/arc-encoder
	$(BIN)/python benchmarks/soft_recall.py dictionaries --steps 600 --ratios 2,4,8
	$(BIN)/python benchmarks/soft_recall.py words --data $(DATA)
	$(BIN)/python benchmarks/refrag_training.py policy -o build/refrag
	$(BIN)/python benchmarks/soft_latency.py --data $(DATA)
	$(BIN)/python benchmarks/agentic_mi.py known

bench-reasoning: $(READY)  ## latent chains and denoised thoughts (an hour or two); pass DATA=folder with puzzles
	$(BIN)/python benchmarks/latent_sft.py
	$(BIN)/python benchmarks/ladir.py --part chains
	$(BIN)/python benchmarks/ladir.py --part countdown $(if $(DATA),--data $(DATA))

bench-training: $(READY)  ## hyperfitting, entropy-guided attention, kills (two or three hours); pass DATA=folder with WikiText-2 and tinyshakespeare.txt
	$(BIN)/python benchmarks/hyperfitting.py main --data $(DATA)
	$(BIN)/python benchmarks/hyperfitting.py baselines --data $(DATA)
	for part in architectures guided norms penalty stability; do \
	  $(BIN)/python benchmarks/entropy_guided_attention.py --data $(DATA) --part $$part; done
	$(BIN)/python benchmarks/resume_demonstration.py
	$(BIN)/python benchmarks/training_speed.py --what chains --precision float32 --steps 200 --save

bench-representation: $(READY)  ## latents, Koopman models, Markov diagnostics, concepts (four hours); pass DATA=folder with WikiText-2, tinyshakespeare.txt, gsm8k_train.jsonl
	$(BIN)/python benchmarks/qlae.py --part compared
	$(BIN)/python benchmarks/koopman.py --part choose
	for seed in 0 1 2; do $(BIN)/python benchmarks/koopman.py --part compare --seed $$seed; done
	$(BIN)/python benchmarks/markov_lm.py --part source
	for part in sensitivity heads smollm2; do $(BIN)/python benchmarks/markov_lm.py --part $$part --data $(DATA); done
	for part in main twin captions paraphrases losses stream simulation; do $(BIN)/python benchmarks/vl_jepa.py --part $$part; done
	for seed in 0 1 2; do $(BIN)/python benchmarks/sae.py --part planted --seed $$seed; done
	for part in simulation smollm2 harvest saes; do $(BIN)/python benchmarks/sae.py --part $$part --data $(DATA); done

bench-codecs: $(READY)  ## learned codecs, FEDS, LV-RAE (a day); pass IMAGES=folder of test pictures
	for part in standard train ablations transforms selection sga timing crops; do $(BIN)/python benchmarks/codecs.py --part $$part --images $(IMAGES) --work build/codecs; done
	for part in teacher students ablation channels; do $(BIN)/python benchmarks/feds.py --kodak $(IMAGES) --work build/feds --family mean-scale --part $$part; done
	for part in small colour toy diffusion; do $(BIN)/python benchmarks/lv_rae.py --part $$part; done

fuzz-codec: $(READY)  ## ten minutes of broken coded pictures; needs atheris
	PYTHONPATH=src OMP_NUM_THREADS=1 $(BIN)/python tests/codecs/fuzz_container.py build/fuzz-codec -max_total_time=600 -print_final_stats=1

zoo: zoo-vlm zoo-diffusion zoo-drafters zoo-recall zoo-llmlingua2 zoo-latent zoo-codecs  ## train every reference checkpoint again (hours)

zoo-vlm: $(READY)
	$(BIN)/python -m szilard_zoo.train_tiny_vlm -o zoo/szilard_zoo/tiny-vlm
	$(BIN)/python -m szilard_zoo.evaluate_tiny_vlm zoo/szilard_zoo/tiny-vlm

zoo-diffusion: $(READY)  ## a masked diffusion language model, half an hour on one core
	$(BIN)/python -m szilard_zoo.train_tiny_diffusion -o zoo/szilard_zoo/tiny-diffusion
	$(BIN)/python -m szilard_zoo.evaluate_tiny_diffusion zoo/szilard_zoo/tiny-diffusion --write-card

zoo-drafters: $(READY)  ## drafters for the embedded model; pass DATA=folder with gsm8k_train.jsonl, mbpp.jsonl, ...
	$(BIN)/python -m szilard_zoo.train_drafters --data $(DATA)

zoo-recall: $(READY)  ## the model that recalls (a quarter of an hour); pass DATA=folder with WikiText-2
	$(BIN)/python -m szilard_zoo.train_tiny_recall --data $(DATA)/wikitext2_valid.txt -o zoo/szilard_zoo/tiny-recall
	$(BIN)/python -m szilard_zoo.evaluate_tiny_recall zoo/szilard_zoo/tiny-recall --held-out $(DATA)/wikitext2_test.txt --write-card

zoo-llmlingua2: $(READY)  ## the classifier of `szilard compress`; pass DATA=folder with WikiText-2, ENCODER=folder or hub id of MiniLM
	$(BIN)/python -m szilard_zoo.train_tiny_llmlingua2 --encoder $(ENCODER) --data $(DATA)/wikitext2_valid.txt -o zoo/szilard_zoo/tiny-llmlingua2

zoo-latent: $(READY)  ## the model that thinks in latent tokens (eight minutes on one core)
	$(BIN)/python benchmarks/latent_sft.py --run "latent, r = 2" --export zoo/szilard_zoo/tiny-latent

zoo-codecs: $(READY)  ## image codecs of four qualities (40 minutes on one core); pass IMAGES=folder of pictures to measure on (Kodak)
	$(BIN)/python benchmarks/codecs.py --part zoo --images $(IMAGES) --work build/codecs

reproduce: $(READY)  ## measure every claim again (hours); pass GSM8K=path/to/test.jsonl for the text part
	$(BIN)/python benchmarks/reproduce_lead.py vision
	$(if $(GSM8K),$(BIN)/python benchmarks/reproduce_lead.py text --data $(GSM8K),)
	$(BIN)/python benchmarks/reproduction_page.py

reproduction: $(READY)
	$(BIN)/python benchmarks/reproduction_page.py

performance: $(READY)
	$(BIN)/python benchmarks/performance_page.py

bench-compiled: $(READY)  ## compiled steps, int8 and int4, beside transformers (ten minutes), and start-up; TEXT=file for the loss
	$(BIN)/python -m pip install -q --no-deps --target build/torchao torchao==0.18.0
	PYTHONPATH=build/torchao $(BIN)/python benchmarks/compiled_speed.py --save $(if $(TEXT),--text $(TEXT))
	$(BIN)/python benchmarks/startup.py --save

test-quantized: $(READY)  ## the tests that need torchao, which stays out of the environment
	$(BIN)/python -m pip install -q --no-deps --target build/torchao torchao==0.18.0
	PYTHONPATH=build/torchao $(BIN)/python -m pytest -q tests/engines/test_compiled_step.py

clean:
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache
