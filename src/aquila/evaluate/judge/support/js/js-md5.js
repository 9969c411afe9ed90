// What the benchmark uses of the package js-md5, from Node.
const { createHash } = require('crypto')

module.exports = (text) => createHash('md5').update(text).digest('hex')
