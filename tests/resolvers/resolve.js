// A client of Node's `dns.lookup`, which is what `net` and `http` use. For each name on standard input it prints one line: the
// sorted addresses, or the error.
'use strict';
const dns = require('node:dns').promises;
const lines = require('node:readline').createInterface({ input: process.stdin });

async function main() {
  for await (const name of lines) {
    let said;
    try {
      const all = await dns.lookup(name, { all: true });
      said = all.map((one) => one.address).sort().join(' ');
    } catch (error) {
      said = error.code;
    }
    process.stdout.write(said + '\n');
  }
}
main();
