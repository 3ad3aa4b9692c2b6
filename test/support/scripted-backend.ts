import type {
  Backend,
  BackendInfo,
  EmbeddingResult,
  GenerateEvent,
  GenerateOptions,
  PreparedPrompt,
  Prompt,
} from '../../src/inference/engine/backend.ts';

/**
 * A scripted model. Each generation takes the next script; a token of `null` waits until `release` is called or the
 * request is aborted.
 */
export class ScriptedBackend implements Backend {
  readonly info: BackendInfo;
  readonly prompts: Prompt[] = [];
  readonly requests: GenerateOptions[] = [];
  /** How each generation ended, in order. */
  readonly ends: ('finished' | 'left' | 'aborted')[] = [];
  readonly #scripts: (readonly (string | null)[] | Error)[] = [];
  #release = Promise.withResolvers<void>();

  constructor(info: Partial<BackendInfo> = {}) {
    this.info = {
      gpu: 'cpu',
      device: null,
      gpuLayers: 0,
      layers: 31,
      threads: 1,
      contextTokens: 200,
      slots: 2,
      embeddingLength: 3,
      embeddingTokens: 10,
      chatTemplate: true,
      ...info,
    };
  }

  script(tokens: readonly (string | null)[] | Error): void {
    this.#scripts.push(tokens);
  }

  release(): void {
    this.#release.resolve();
    this.#release = Promise.withResolvers<void>();
  }

  /** One token per word. */
  prepare(prompt: Prompt): PreparedPrompt {
    this.prompts.push(prompt);
    if (prompt.kind === 'tokens') return { tokens: prompt.tokens, stops: [] };
    const text = prompt.kind === 'text' ? prompt.text : prompt.turns.map((one) => one.text).join(' ');
    return { tokens: text.split(' ').map((_, index) => index), stops: ['<end>'] };
  }

  async *generate(options: GenerateOptions): AsyncIterable<GenerateEvent> {
    this.requests.push(options);
    const script = this.#scripts.shift() ?? ['ok'];
    let end: 'finished' | 'left' | 'aborted' = 'left';
    try {
      if (script instanceof Error) throw script;
      yield { kind: 'prompt', cachedTokens: 1 };
      for (const token of script) {
        if (token === null) await this.#wait(options.signal);
        else yield { kind: 'token', text: token };
      }
      end = 'finished';
    } catch (error) {
      if (options.signal.aborted) end = 'aborted';
      throw error;
    } finally {
      this.ends.push(end);
    }
  }

  embed(input: string | readonly number[]): Promise<EmbeddingResult> {
    return Promise.resolve({ vector: Float32Array.of(0.6, 0.8, 0), tokens: input.length });
  }

  close(): Promise<void> {
    return Promise.resolve();
  }

  #wait(signal: AbortSignal): Promise<void> {
    return new Promise((resolve, reject) => {
      signal.addEventListener('abort', () => reject(signal.reason), { once: true });
      void this.#release.promise.then(resolve);
    });
  }
}
