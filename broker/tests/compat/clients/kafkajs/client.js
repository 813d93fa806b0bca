// kafkajs for the client matrix; it speaks the line protocol of ../../README.md.
const readline = require('node:readline')
const zlib = require('node:zlib')
const kafkajs = require('kafkajs')

const { Kafka, CompressionCodecs, CompressionTypes, ConfigResourceTypes, logLevel } = kafkajs
CompressionCodecs[CompressionTypes.Snappy] = require('kafkajs-snappy')

const PATIENCE_MS = 30_000
const kafka = new Kafka({
  clientId: 'matrix', brokers: [process.argv[2]], logLevel: logLevel.NOTHING,
  retry: { retries: 8, initialRetryTime: 100, maxRetryTime: 1000 },
})
const COMPRESSION = {
  none: CompressionTypes.None, gzip: CompressionTypes.GZIP, snappy: CompressionTypes.Snappy,
}
const ACKS = { 0: 0, 1: 1, all: -1 }
let ownAdmin
const producers = new Map()

const emit = line => process.stdout.write(JSON.stringify(line) + '\n')
const sleep = ms => new Promise(done => setTimeout(done, ms))

const CRC = new Uint32Array(256).map((_, n) => {
  for (let bit = 0; bit < 8; bit++) n = n & 1 ? (n >>> 1) ^ 0xedb88320 : n >>> 1
  return n
})
function crc32(buffer) {
  let crc = 0xffffffff
  for (const byte of buffer) crc = CRC[(crc ^ byte) & 255] ^ (crc >>> 8)
  return (crc ^ 0xffffffff) >>> 0
}
const row = (partition, offset, key, value, timestamp = -1) =>
  [partition, offset, key ? key.toString() : '', crc32(Buffer.from(value)), timestamp]
const rowOf = (partition, m) => row(partition, Number(m.offset), m.key, m.value, Number(m.timestamp))

async function admin() {
  if (!ownAdmin) {
    ownAdmin = kafka.admin()
    await ownAdmin.connect()
  }
  return ownAdmin
}

async function producer(acks, idempotent) {
  const name = `${acks}${idempotent}`
  if (!producers.has(name)) {
    const made = kafka.producer({
      idempotent, maxInFlightRequests: 1, createPartitioner: kafkajs.Partitioners.DefaultPartitioner, metadataMaxAge: 1000,
    })
    await made.connect()
    producers.set(name, made)
  }
  return producers.get(name)
}

// Reads with a consumer of a group until `enough` says so.
async function reading(groupId, topic, { before, enough, each, ms = PATIENCE_MS }) {
  const consumer = kafka.consumer({ groupId, maxWaitTimeInMs: 100 })
  await consumer.connect()
  await consumer.subscribe({ topics: [topic], fromBeginning: true })
  await consumer.run({
    autoCommit: false,
    eachBatchAutoResolve: false,
    eachBatch: async ({ batch, resolveOffset }) => {
      for (const message of batch.messages) {
        if (!each(batch.partition, message)) break
        resolveOffset(message.offset)
      }
    },
  })
  if (before) before(consumer)
  const deadline = Date.now() + ms
  while (!enough() && Date.now() < deadline) await sleep(20)
  return consumer
}

const operations = {
  hello: async () => ({
    version: require('kafkajs/package.json').version,
    ops: Object.keys(operations).filter(op => op !== 'hello'),
    compressions: Object.keys(COMPRESSION),
    acks: ['all', '1', '0'],
    assignors: ['roundrobin'],
    idempotent: true,
    static: false,
  }),

  create: async ({ topic, partitions, replication = 1, configs = {} }) => {
    const configEntries = Object.entries(configs).map(([name, value]) => ({ name, value }))
    const made = await (await admin()).createTopics({
      topics: [{ topic, numPartitions: partitions, replicationFactor: replication, configEntries }],
    })
    if (!made) throw Object.assign(new Error('the topic exists'), { code: 36 })
  },

  delete: async ({ topic }) => (await admin()).deleteTopics({ topics: [topic] }),

  partitions: async ({ topic, count }) => {
    await (await admin()).createPartitions({ topicPartitions: [{ topic, count }] })
  },

  produce: async r => {
    const { topic, count, prefix = 'r', compression = 'none', acks = 'all', idempotent = false } = r
    const messages = []
    for (let i = 0; i < count; i++) {
      const key = `${prefix}-${i}`
      messages.push({
        key: r.keyless ? null : key,
        value: r.size !== undefined ? 'x'.repeat(r.size) : `${key}|${'x'.repeat((i * 37) % 1000)}`,
        partition: r.partition,
        timestamp: r.timestamp === undefined ? undefined : String(r.timestamp + 1000 * i),
        headers: { n: String(i) },
      })
    }
    const sender = await producer(acks, idempotent)
    const sent = await sender.send({ topic, messages, acks: ACKS[acks], compression: COMPRESSION[compression] })
    // Only the base offset of each partition is told: which record went where is known after reading.
    const exact = sent.length === 1 && acks !== '0' && r.partition !== undefined
    const base = exact ? Number(sent[0].baseOffset ?? sent[0].offset) : 0
    return {
      records: messages.map((m, i) => row(r.partition ?? -1, exact ? base + i : -1, m.key, m.value)),
    }
  },

  consume: async ({ topic, group, count }) => {
    const records = []
    const next = new Map()
    const consumer = await reading(group, topic, {
      enough: () => records.length === count,
      each: (partition, message) => {
        if (records.length === count) return false
        records.push(rowOf(partition, message))
        next.set(partition, String(Number(message.offset) + 1))
        return true
      },
    })
    await consumer.commitOffsets([...next].map(([partition, offset]) => ({ topic, partition, offset })))
    await consumer.disconnect()
    return { records }
  },

  read: async ({ topic, partition, offset, count }) => {
    const records = []
    const consumer = await reading(`${topic}-read-${Date.now()}`, topic, {
      before: c => c.seek({ topic, partition, offset: String(offset) }),
      enough: () => records.length >= count,
      each: (from, message) => {
        if (from === partition && Number(message.offset) >= offset) records.push(rowOf(from, message))
        return true
      },
    })
    await consumer.disconnect()
    return { records: records.sort((a, b) => a[1] - b[1]).filter((r, i, all) => !i || r[1] > all[i - 1][1]).slice(0, count) }
  },

  pause: async ({ topic, partition, others, count }) => {
    const paused = []
    const resumed = []
    let into = paused
    const consumer = await reading(`${topic}-pause-${Date.now()}`, topic, {
      before: c => c.pause([{ topic, partitions: [partition] }]),
      enough: () => paused.length > count * others.length,
      each: (from, message) => into.push(rowOf(from, message)) > 0,
      ms: 6000,
    })
    into = resumed
    consumer.resume([{ topic, partitions: [partition] }])
    const deadline = Date.now() + PATIENCE_MS
    while (resumed.length < count && Date.now() < deadline) await sleep(20)
    await consumer.disconnect()
    return { paused, resumed }
  },

  offsets: async ({ topic, partitions, at }) => {
    const one = await admin()
    const byTime = typeof at === 'number'
    const found = byTime ? await one.fetchTopicOffsetsByTimestamp(topic, at) : await one.fetchTopicOffsets(topic)
    const offsets = new Array(partitions).fill(-1)
    for (const p of found) offsets[p.partition] = Number(byTime ? p.offset : at === 'earliest' ? p.low : p.high)
    return { offsets }
  },

  committed: async ({ topic, group, partitions }) => {
    const found = await (await admin()).fetchOffsets({ groupId: group, topics: [topic] })
    const offsets = new Array(partitions).fill(-1)
    for (const p of found[0].partitions) offsets[p.partition] = Number(p.offset)
    return { offsets }
  },

  alter: async ({ topic, configs }) => {
    const configEntries = Object.entries(configs).map(([name, value]) => ({ name, value }))
    const resources = [{ type: ConfigResourceTypes.TOPIC, name: topic, configEntries }]
    await (await admin()).alterConfigs({ resources })
  },

  configs: async ({ topic }) => {
    const resources = [{ type: ConfigResourceTypes.TOPIC, name: topic }]
    const found = await (await admin()).describeConfigs({ resources })
    return { configs: Object.fromEntries(found.resources[0].configEntries.map(e => [e.configName, e.configValue])) }
  },

  delete_records: async ({ topic, partition, before }) => {
    const partitions = [{ partition, offset: String(before) }]
    for (let tries = 1; ; tries++) {
      try {
        return await (await admin()).deleteTopicRecords({ topic, partitions })
      } catch (error) { // it does not look for the leader of a new topic by itself
        if (tries === 20 || error.partitions?.[0]?.error?.name !== 'KafkaJSBrokerNotFound') throw error
        await sleep(200)
      }
    }
  },

  cluster: async () => {
    const found = await (await admin()).describeCluster()
    const topics = await ownAdmin.listTopics()
    return { id: found.clusterId, brokers: found.brokers.map(b => b.nodeId), controller: found.controller, topics }
  },

  topic: async ({ topic }) => {
    const found = await (await admin()).fetchTopicMetadata({ topics: [topic] })
    return { partitions: found.topics[0].partitions.map(p => ({ leader: p.leader, replicas: p.replicas, isr: p.isr })) }
  },

  groups: async () => ({ groups: (await (await admin()).listGroups()).groups.map(g => g.groupId) }),

  group: async ({ group }) => {
    const found = (await (await admin()).describeGroups([group])).groups[0]
    return { state: found.state, members: found.members.length }
  },

  delete_group: async ({ group }) => {
    await (await admin()).deleteGroups([group])
  },

  member: async ({ topic, group, session_ms: sessionTimeout = 3000 }) => {
    const consumer = kafka.consumer({
      groupId: group, sessionTimeout, heartbeatInterval: 300, rebalanceTimeout: 10_000, maxWaitTimeInMs: 100,
    })
    let told
    consumer.on(consumer.events.GROUP_JOIN, ({ payload }) => {
      const now = JSON.stringify([...(payload.memberAssignment[topic] ?? [])].sort())
      if (now !== told) emit({ event: 'assigned', partitions: JSON.parse(now) })
      told = now
    })
    await consumer.connect()
    await consumer.subscribe({ topics: [topic], fromBeginning: true })
    await consumer.run({
      eachMessage: async ({ message }) => emit({ event: 'read', keys: [message.key.toString()] }),
    })
    await leaving
    await consumer.disconnect()
    process.exit(0)
  },
}

// The code is deep in what kafkajs throws: in the cause of a retry, or in a list of errors.
function codeOf(error) {
  for (let one = error; one; one = one.cause ?? one.errors?.[0] ?? one.groups?.[0]?.error ?? one.partitions?.[0]?.error) {
    if (typeof one.code === 'number' && one.code > 0) return one.code
    if (one.groups?.[0]?.errorCode > 0) return one.groups[0].errorCode
  }
  return null
}

let leave
const leaving = new Promise(done => { leave = done })
let busy = Promise.resolve()
readline.createInterface({ input: process.stdin }).on('line', line => {
  const { op, ...request } = JSON.parse(line)
  if (op === 'leave') return leave()
  busy = busy.then(() => operations[op](request)).then(
    result => emit({ ok: result ?? {} }),
    error => {
      console.error(error)
      emit({ error: codeOf(error), message: `${error.name}: ${error.message}` })
    },
  )
}).on('close', () => process.exit(0))
