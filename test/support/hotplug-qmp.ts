/** A QMP client for tests of devices that are plugged and unplugged. */
import type { QmpClient, QmpEvent } from '../../src/machine/vmm/qemu/qmp.ts';

export interface HotplugQmp {
  readonly client: QmpClient;
  /** Each with its arguments. */
  readonly commands: string[];
  /** The virtio part of a device is gone. */
  release(device: string): void;
  /** The device is gone. */
  free(device: string): void;
}

export interface HotplugOptions {
  refuse?: string;
  /** By command. Default: nothing. */
  answers?: Readonly<Record<string, unknown>>;
  /**
   * When a device is gone after `device_del`: at once, when the test says so, or (also when the test says so) after the
   * wait for it timed out.
   */
  gone?: 'at-once' | 'by-test' | 'late';
}

export function hotplugQmp(options: HotplugOptions = {}): HotplugQmp {
  const commands: string[] = [];
  const listeners = new Set<(event: QmpEvent) => void>();
  const emit = (data: QmpEvent['data']): void => {
    for (const tell of [...listeners]) tell({ name: 'DEVICE_DELETED', data });
  };
  const release = (device: string): void => emit({ path: `/machine/peripheral/${device}/virtio-backend` });
  const free = (device: string): void => emit({ device, path: `/machine/peripheral/${device}` });
  const client = {
    execute: async (command: string, args: Record<string, unknown> = {}): Promise<unknown> => {
      commands.push(`${command} ${Object.values(args).join(' ')}`);
      if (command === options.refuse) throw new Error(`${command} refused`);
      if (command !== 'device_del' || (options.gone ?? 'at-once') !== 'at-once') return options.answers?.[command];
      // Events of other devices must be ignored.
      release('other');
      free('other');
      release(String(args['id']));
      free(String(args['id']));
      return undefined;
    },
    passFd: async (name: string, fd: number) => void commands.push(`getfd ${name} ${fd}`),
    onEvent: (listener: (event: QmpEvent) => void) => {
      listeners.add(listener);
      return () => listeners.delete(listener);
    },
    event: (matches: (event: QmpEvent) => boolean) =>
      new Promise<QmpEvent>((resolve, reject) => {
        if (options.gone === 'late') reject(new Error('no answer in time'));
        listeners.add((event) => {
          if (matches(event)) resolve(event);
        });
      }),
  } as unknown as QmpClient;
  return { client, commands, release, free };
}
