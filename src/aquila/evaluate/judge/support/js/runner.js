// Runs a sample and its tests in two realms of one process, and says so with a nonce once the tests are through.
//
// The sample's realm has its own Array, JSON, Math, ... and may change them; the tests' realm has others, which it never
// holds. What crosses is copied by code that was compiled in the tests' realm: answers are plain data there.
//
// The realms keep names apart, not secrets: whoever holds a function of Node reaches Node. So everything that is called
// after the sample was made and bound before it, tests and all, and strict functions show nobody who called them.
//
//   stdin: the nonce      argv: sample, tests, names of functions
//   exit code 3: the tests failed   4: the sample threw   5: it does not parse   6: an answer is no plain data
'use strict'
const fs = require('fs')
const vm = require('vm')
const { types } = require('util')
const { writeSync, readFileSync } = fs
const exit = process.reallyExit.bind(process)
const nonce = Buffer.alloc(64)  // memory of its own: what readFileSync gives shares a pool that the sample can look into
const nonceLength = fs.readSync(0, nonce)
fs.closeSync(0)
fs.openSync('/dev/null', 'r')
const [sampleFile, testFile, names] = process.argv.slice(2)
const source = readFileSync(sampleFile, 'utf8')
const tests = readFileSync(testFile, 'utf8')

function leave (code, message) {
  writeSync(2, Buffer.from('\n' + message + '\n'))
  exit(code)
}

function requireForSample (name) {
  return require(name === 'js-md5' ? './js-md5.js' : name)
}

const sampleModule = { exports: {} }
const sampleRealm = vm.createContext({
  console, require: requireForSample, module: sampleModule, exports: sampleModule.exports, process, Buffer, URL,
  TextEncoder, TextDecoder, structuredClone, performance, queueMicrotask,
  setTimeout, setInterval, setImmediate, clearTimeout, clearInterval, clearImmediate
})
// Fresh containers of the sample's realm, made by functions that it cannot reach.
const makers = vm.runInContext(
  '({ array: () => [], object: () => ({}), map: (pairs) => new Map(pairs), set: (items) => new Set(items) })', sampleRealm)
const testRealm = vm.createContext({})

// Compiled in the tests' realm, so that every literal and every method in it is of that realm.
const bridge = vm.runInContext(`'use strict';
(types, makers, describe) => {
  const { defineProperty, ownKeys, getOwnPropertyDescriptor, apply } = Reflect
  const isArray = Array.isArray
  const { isProxy, isBoxedPrimitive, isDate, isTypedArray, isMap, isSet } = types
  let realm
  class TestFailure extends Error {}
  class OddAnswer extends Error {}
  class SampleError extends Error {}
  const put = (target, key, value) =>
    defineProperty(target, key, { value, writable: true, enumerable: true, configurable: true })
  const isPlain = (value) => value === null || (typeof value !== 'object' && typeof value !== 'function')

  function give (value) {  // into the sample's realm
    if (isPlain(value)) return value
    if (isArray(value)) {
      const copy = makers.array()
      for (let i = 0; i < value.length; i++) put(copy, i, give(value[i]))
      return copy
    }
    if (value instanceof Map) {
      const pairs = makers.array()
      for (const [key, item] of value) put(pairs, pairs.length, give([key, item]))
      return makers.map(pairs)
    }
    if (value instanceof Set) return makers.set(give([...value]))
    const copy = makers.object()
    for (const key of ownKeys(value)) if (typeof key === 'string') put(copy, key, give(value[key]))
    return copy
  }

  function take (value) {  // out of it
    if (isPlain(value)) return value
    if (typeof value === 'function') throw new OddAnswer('it answered with a function')
    if (isProxy(value)) throw new OddAnswer('it answered with a proxy')
    if (isBoxedPrimitive(value)) {
      for (const kind of [Number, String, Boolean, BigInt]) {
        try { return apply(kind.prototype.valueOf, value, []) } catch {}
      }
    }
    if (isDate(value)) return new Date(apply(Date.prototype.getTime, value, []))
    if (isArray(value) || isTypedArray(value)) {
      const copy = []
      for (let i = 0; i < value.length; i++) put(copy, i, take(value[i]))
      return copy
    }
    if (isMap(value)) {
      const copy = new Map()
      apply(Map.prototype.forEach, value, [(item, key) => { copy.set(take(key), take(item)) }])
      return copy
    }
    if (isSet(value)) {
      const copy = new Set()
      apply(Set.prototype.forEach, value, [(item) => { copy.add(take(item)) }])
      return copy
    }
    const copy = {}
    for (const key of ownKeys(value)) {
      const found = typeof key === 'string' && getOwnPropertyDescriptor(value, key)
      if (!found || !found.enumerable) continue
      const item = value[key]
      if (typeof item !== 'function') put(copy, key, take(item))
    }
    return copy
  }

  const wrap = (target) => (...values) => {
    const given = makers.array()
    for (let i = 0; i < values.length; i++) put(given, i, give(values[i]))
    let answer
    try {
      answer = apply(target, undefined, given)
    } catch (error) {
      throw new SampleError(describe(error))
    }
    return take(answer)
  }

  return {
    bind: (name, target) => put(realm, name, wrap(target)),
    install: (given) => {
      realm = given
      const assert = (condition, ...words) => { if (!condition) throw new TestFailure(words.join(' ')) }
      put(realm, 'console', { assert, log: () => {}, error: () => {} })
    },
    kindOf: (error) => error instanceof TestFailure ? 3 : error instanceof SampleError ? 4 : error instanceof OddAnswer ? 6 : 7
  }
}`, testRealm)(types, makers, describe)

function describe (error) {
  try { return String(error).slice(0, 500) } catch { return 'it threw something' }
}

bridge.install(vm.runInContext('globalThis', testRealm))
const { bind, kindOf } = bridge
const runTests = vm.runInContext(`(() => { 'use strict'\n${tests}\n})`, testRealm, { filename: 'tests.js' })
const wanted = names.split(',')
const { length } = wanted

let script
try {
  // a `const` of the sample is no property of its global object: the sample's own code names what is wanted
  script = new vm.Script(`${source}\n;[${names}]`, { filename: 'sample.js' })
} catch (error) {
  leave(5, describe(error))
}
let targets
try {
  targets = script.runInContext(sampleRealm)
} catch (error) {
  leave(4, describe(error))
}
for (let i = 0; i < length; i++) {
  if (typeof targets[i] !== 'function') leave(4, `${wanted[i]} is no function`)
  bind(wanted[i], targets[i])
}
try {
  runTests()
} catch (error) {
  leave(kindOf(error), describe(error))
}
writeSync(1, nonce, 0, nonceLength)
exit(0)
