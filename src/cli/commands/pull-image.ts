/** The image of a new sandbox: pulled, with progress, before a daemon of this machine is asked for the sandbox. */
import type { Cli } from '../cli.ts';
import { type ImageFlags, readReference } from '../flags/image-flag.ts';

/**
 * @returns the option of the request: the complete reference, whose paths are absolute
 * @throws UsageError; OciError
 */
export async function pulledImage(cli: Cli, { image: name }: ImageFlags): Promise<{ readonly image?: string }> {
  if (name === undefined) return {};
  const reference = await readReference(name);
  // A daemon elsewhere has images of its own.
  if (cli.config.daemonUrl === null) {
    // Loaded only here: it loads the runtime.
    const { openContents } = await import('./contents.ts');
    await using contents = await openContents(cli);
    await contents.images.pull(reference.text, 'missing', contents.work);
  }
  return { image: reference.text };
}
