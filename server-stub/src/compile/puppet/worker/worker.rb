# frozen_string_literal: true

# The warm parent of compiles: loads Puppet's library and what it has parsed of one version of the code, then forks once for each catalog.
#
# ARGV[0]  JSON: environment, environments (directory that holds it), confdir, vardir, modules (base module path), idle_seconds,
#          memory_bytes, server_name
# stdin    a Unix socket; each message on it carries a socket of one compile as SCM_RIGHTS; its end ends everything
# stdout   one line of JSON when ready: {"ready": …}, or why not: {"missing": …}, {"failed": …}
#
# A socket of a compile carries, in this order: "pid <n>\n" from the parent; the request to the child and its answer, each four bytes of
# length and JSON; "exit <n>\n" or "signal <n>\n" from the parent when the child has ended.

require 'json'
require 'set'
require 'socket'

CONFIG = JSON.parse(ARGV.shift)
ANSWER = $stdout.dup
$stdout.reopen($stderr)
KEPT = $stdin.dup
KEPT.autoclose = false
CONTROL = UNIXSocket.for_fd(KEPT.fileno)
$stdin.reopen(File::NULL)

def announce(message)
  ANSWER.puts(JSON.generate(message))
  ANSWER.close
end

begin
  require 'puppet'
  require 'puppet/application_support'
rescue LoadError, StandardError => e
  announce('missing' => e.message)
  exit!(3)
end

# What the code logs while it compiles, as far as it is worth the server's log.
module DirectPuppet
  class Logs
    MOST = 1000
    LONGEST = 4096
    attr_reader :entries

    def initialize
      @entries = []
    end

    # Forgets what was said, and takes no more.
    def end
      @entries = []
      @has_ended = true
    end

    def add(message)
      return if @has_ended || @entries.size >= MOST || %i[debug info].include?(message.level)

      @entries << { 'level' => message.level.to_s, 'message' => message.to_s.scrub[0, LONGEST] }
    end
  end
end

# What was said while the manifests were loaded: compiles pass it on until one has. What is loaded later, a compile has loaded before, and said.
LOADING = DirectPuppet::Logs.new

Puppet::Util::Log.newdesttype :direct_puppet do
  match 'DirectPuppet::Logs'

  def initialize(logs)
    @logs = logs
  end

  def handle(message)
    @logs.add(message)
  end
end

def set_up
  Puppet.settings.preferred_run_mode = :server
  Puppet.initialize_settings(
    ['--confdir', CONFIG['confdir'], '--vardir', CONFIG['vardir'], '--environmentpath', CONFIG['environments'],
     '--environment', CONFIG['environment'], '--basemodulepath', CONFIG['modules'], '--environment_timeout', 'unlimited']
  )
  Puppet::ApplicationSupport.push_application_context(Puppet::Util::RunMode[:server], :local)
  Puppet::Node::Facts.indirection.terminus_class = :memory
  Puppet::Node.indirection.terminus_class = :plain
  extension_names
end

def environment
  @environment ||= Puppet.lookup(:environments).get!(CONFIG['environment'].to_sym).tap do |found|
    # It asks the checkout of a deploy tool, which this is not: a catalog is named after its code.
    found.define_singleton_method(:config_version) { '' }
  end
end

SERVER_FACTS = {
  'serverversion' => Puppet.version.to_s,
  'servername' => CONFIG['server_name'],
  'serverip' => (Socket.ip_address_list.find { |a| a.ipv4? && !a.ipv4_loopback? }&.ip_address || '127.0.0.1'),
}.freeze

# What every agent of Puppet says of itself, for agents that do not.
def client_facts(certname)
  { 'clientcert' => certname, 'clientversion' => Puppet.version.to_s, 'clientnoop' => false }
end

# The node classifier has not said what a node is.
class Unclassified < Puppet::Error
end

# What a node classifier has said that a node is, read as by Puppet.
def classification(request)
  said = request['classification'] or return {}
  name = request['certname']
  fail_with = ->(why) { raise Unclassified, "the node classifier #{said['program']} did not say what #{name} is: #{why}" }
  begin
    read = Puppet::Util::Yaml.safe_load(said['text'], [Symbol])
  rescue Puppet::Util::Yaml::YamlLoadError => e
    fail_with.call("its YAML cannot be used: #{e.message}")
  end
  fail_with.call('it said nothing: it does not know the node') unless read
  fail_with.call('its YAML is no hash') unless read.is_a?(Hash)
  read = read.transform_keys(&:to_s)
  known = read.slice('classes', 'parameters', 'environment').compact
  fail_with.call('its YAML has none of classes, parameters and environment') if known.empty? && (read.keys - %w[classes parameters environment]).any?
  known['classes'] = [known['classes']] if known['classes'].is_a?(String)
  { 'classes' => [Array, Hash], 'parameters' => [Hash], 'environment' => [String, Symbol] }.each do |key, kinds|
    fail_with.call("its #{key} are no #{kinds.first.name.downcase}") unless known[key].nil? || kinds.any? { |kind| known[key].is_a?(kind) }
  end
  own = known['environment']&.to_s
  return known if own.nil? || own == CONFIG['environment']

  raise Unclassified, "the node classifier puts #{name} into environment #{own}, and it asked for #{CONFIG['environment']}: " \
                      "run it with --environment #{own}, or change its classification"
end

def build_node(request, into)
  facts = Puppet::Node::Facts.new(request['certname'], client_facts(request['certname']).merge(request['facts']))
  enc = classification(request)
  options = { environment: into, facts: facts, parameters: enc['parameters'] || {} }
  options[:classes] = enc['classes'] if enc['classes']
  node = Puppet::Node.new(request['certname'], **options)
  node.merge(facts.values)
  node.add_server_facts(SERVER_FACTS)
  node
end

# Names that the site gives to extensions of certificates (custom_trusted_oid_mapping.yaml), by identifier.
def extension_names
  @extension_names ||= begin
    mapped = Puppet::SSL::Oids.parse_custom_oid_file(Puppet[:trusted_oid_mapping_file])
    names = Array(mapped).to_h { |oid, name, _| [oid, name] }
    # The server has looked at the file in the usual place; here it is the one that settings name.
    double = names.values.tally.find { |_, count| count > 1 }
    raise "#{Puppet[:trusted_oid_mapping_file]}: two identifiers have one name, #{double.first}: give each its own" if double

    names
  end
end

def trusted_information(request)
  extensions = (request['extensions'] || {}).transform_keys { |name| extension_names.fetch(name, name) }
  Puppet::Context::TrustedInformation.new('remote', request['certname'], extensions)
end

def compile(request, into)
  node = build_node(request, into)
  trusted = trusted_information(request)
  node.trusted_data = trusted.to_h
  Puppet.override({ trusted_information: trusted, current_environment: into }, 'a compile') do
    catalog = into.with_text_domain { Puppet::Parser::Compiler.compile(node, request['code_id']) }
    catalog = catalog.filter(&:virtual?)
    Puppet.override({ rich_data: true }, 'catalogs hold rich data') { catalog.to_data_hash }
  end
end

# Where in the code it went wrong: the innermost error that knows.
def place(error)
  while error
    if error.respond_to?(:file) && error.file
      return { 'file' => error.file, 'line' => error.line, 'column' => (error.pos if error.respond_to?(:pos)) }
    end
    error = error.cause
  end
  {}
end

def failure(error)
  told = { 'message' => error.message.dup.force_encoding('UTF-8').scrub, 'of_server' => error.is_a?(Unclassified) }
  { 'error' => place(error).merge(told) }
end

def module_directories
  environment.modules.to_h { |found| [found.name, found.path] }
end

# A compiler for nobody. It makes what Puppet looks up while it loads code: without a scope it would leave out the types of parameters, and
# without loaders take nothing of a manifest that declares a type or a function. The manifests of all nodes are loaded with it.
def compiler
  @compiler ||= Puppet::Parser::Compiler.new(Puppet::Node.new('nobody', environment: environment))
rescue Exception # rubocop:disable Lint/RescueException
  # Whoever comes next hears what is wrong.
  begin_anew
  raise
end

# Forgets what was loaded, for it is not whole.
def begin_anew
  %i[@known_resource_types @parsed_code].each { |held| environment.instance_variable_set(held, nil) }
  environment.loaders = nil
  @compiler = nil
  # It is said again when it is loaded again.
  LOADING.end
end

# Parses what every node needs, so that a publish learns of it.
def check
  environment.check_for_reparse
  errors = environment.validation_errors
  raise Puppet::Error, errors.first unless errors.empty?

  compiler
  { 'checked' => true }
end

def answer(request)
  return check if request['check']

  # As `puppet apply` does: Ruby of one module requires what another has. In the parent it would bring providers of modules.
  environment.each_plugin_directory { |dir| $LOAD_PATH << dir unless $LOAD_PATH.include?(dir) }
  logs = DirectPuppet::Logs.new
  Puppet::Util::Log.close_all
  Puppet::Util::Log.newdestination(logs)
  told = lambda { LOADING.entries + logs.entries }
  begin
    catalog = compile(request, environment)
    @has_compiled = true
    { 'catalog' => catalog, 'modules' => module_directories, 'logs' => told.call }
  rescue Exception => e # rubocop:disable Lint/RescueException
    failure(e).merge('logs' => told.call)
  end
rescue Exception => e # rubocop:disable Lint/RescueException
  failure(e)
end

def read_frame(io)
  length = io.read(4)&.unpack1('N') or exit!(0)
  JSON.parse(io.read(length), max_nesting: 200)
end

def encode(message)
  JSON.generate(message, max_nesting: 200)
rescue JSON::JSONError, EncodingError => e
  JSON.generate(failure(e).then { |told| told.merge('error' => told['error'].merge('message' => no_text(message) || e.message.scrub)) })
end

# Says which parameter cannot be in a catalog, if one cannot.
def no_text(message)
  is_text = lambda do |value|
    case value
    when String then value.dup.force_encoding('UTF-8').valid_encoding?
    when Array then value.all?(&is_text)
    when Hash then value.all? { |key, held| is_text.call(key) && is_text.call(held) }
    else true
    end
  end
  Array(message.dig('catalog', 'resources')).each do |resource|
    (resource['parameters'] || {}).each do |name, value|
      next if is_text.call(value)

      return "#{resource['type']}[#{resource['title'].to_s.scrub}]: #{name} is not text in UTF-8, as a catalog must be: " \
             'use binary_file or Binary for bytes'
    end
  end
  nil
end

def write_frame(io, bytes)
  io.write([bytes.bytesize].pack('N'), bytes)
  io.flush
end

# What the compile has loaded, for the parent to load it once for all that follow.
def loaded
  known = environment.known_resource_types
  types = []
  Puppet::Type.eachtype { |type| types << type.name.to_s }
  { 'classes' => known.hostclasses.keys, 'defines' => known.definitions.keys, 'types' => types }
rescue StandardError
  {}
end

def run_child(io, tell)
  Process.setpgid(0, 0)
  Process.setrlimit(Process::RLIMIT_AS, CONFIG['memory_bytes'] * 2 + (1 << 30))
  Process.setrlimit(Process::RLIMIT_CORE, 0)
  request = begin
    read_frame(io)
  rescue JSON::JSONError => e
    write_frame(io, encode(failure(e)))
    exit!(0)
  end
  $0 = "direct-puppet compile #{request['certname']}"
  reply = encode(answer(request))
  # Before the answer: until that is read, this process is watched.
  begin
    # What a compile has loaded that failed need not be whole.
    tell.write(JSON.generate(loaded)) if @has_compiled
  rescue SystemCallError
    # It was too much for the parent, which loads it another time.
    nil
  end
  tell.close
  write_frame(io, reply)
  exit!(0)
rescue Exception => e # rubocop:disable Lint/RescueException
  warn("compile: #{e.class}: #{e.message}")
  exit!(70)
end

NAME = /\A[a-z]\w*(::[a-z]\w*)*\z/.freeze

# What cannot be loaded for nobody: the type of a parameter may be made of facts.
NOT_LEARNT = Set.new

# Loads manifests, which runs none of them, and Puppet's own types; no types in Ruby that modules have, for one brings all its providers.
def learn(text)
  told = JSON.parse(text)
  LOADING.end
  Puppet.override(compiler.context_overrides, 'loading what a compile has loaded') do
    types = environment.known_resource_types
    { 'classes' => [:hostclass, types.hostclasses], 'defines' => [:definition, types.definitions] }.each do |key, (kind, known)|
      Array(told[key]).grep(NAME).each { |name| learn_one(types, kind, name) unless known.key?(name) || NOT_LEARNT.include?(name) }
    end
  end
  Array(told['types']).grep(NAME).each { |name| own_type(name) }
rescue StandardError, ScriptError => e
  begin_anew
  warn("loading what a compile has loaded: #{e.class}: #{e.message}") if $VERBOSE
end

def learn_one(types, kind, name)
  types.loader.try_load_fqname(kind, name)
rescue StandardError, ScriptError
  NOT_LEARNT << name
  raise
end

# An environment without any code.
NOWHERE = Puppet::Node::Environment.create(:warm_up, [])

LIBRARY = File.dirname($LOADED_FEATURES.find { |path| path.end_with?('/puppet.rb') } || '/')

def own_type(name)
  of_modules = [File.join('lib/puppet/type', "#{name}.rb"), File.join('lib/puppet/provider', name)]
  return if environment.modules.any? { |found| of_modules.any? { |path| File.exist?(File.join(found.path, path)) } }
  return unless File.exist?(File.join(LIBRARY, 'puppet/type', "#{name}.rb"))

  Puppet.override({ current_environment: NOWHERE }, 'a type of Puppet itself') { Puppet::Type.type(name.to_sym) }
end

# Has the library load what it loads late, with a catalog of nobody's code.
def warm_up
  Puppet[:code] = "notify { lookup('x', { default_value => inline_epp('<%= 1 %>') }): message => inline_template('<%= 1 %>') }"
  compile({ 'certname' => 'nobody', 'facts' => {} }, NOWHERE)
rescue StandardError => e
  warn("warming up: #{e.class}: #{e.message}") if $VERBOSE
ensure
  Puppet[:code] = ''
end

# Types that most code uses.
COMMON = %w[exec file filebucket group notify package resources schedule service stage user].freeze

# Puppet's own functions and the common types, to be loaded one at a time when there is nothing else to do: a question that comes
# meanwhile waits for one of them.
def what_is_common
  functions = Dir.glob(File.join(LIBRARY, 'puppet/functions/*.rb')).sort.map do |file|
    -> { common_loaders.puppet_system_loader.load(:function, File.basename(file, '.rb')) }
  end
  types = COMMON.map { |name| -> { own_type(name) } }
  functions + types + [-> { GC.start }]
end

def common_loaders
  environment.loaders || Puppet::Pops::Loaders.new(environment)
end

def load_one(common)
  load = common.shift
  attempt do
    Puppet.override({ loaders: common_loaders, current_environment: environment }, 'loading what is common', &load)
  end
end

# What cannot be loaded here is said to the compile that needs it.
def attempt
  yield
rescue StandardError, ScriptError => e
  warn("loading what is common: #{e.class}: #{e.message}") if $VERBOSE
end

# A compile under way: its socket, and the pipe on which it tells what it has loaded.
class Child
  MOST_BYTES = 4 << 20
  attr_reader :io, :text

  def initialize(io, pipe)
    @io = io
    @pipe = pipe
    @text = +''
  end

  # The pipe while there may come more on it.
  def pipe
    @pipe unless @pipe.closed?
  end

  # Takes what there is; what goes on without an end is left.
  def take
    loop do
      more = @pipe.read_nonblock(1 << 16, exception: false)
      return if more == :wait_readable
      return @pipe.close if more.nil? || @text.bytesize > MOST_BYTES

      @text << more
    end
  end

  def close
    [@io, @pipe].each { |held| held.close unless held.closed? }
  end
end

PR_SET_CHILD_SUBREAPER = 36

# Has what a compile starts and lets go of come to this process, where it is found. Without it (no library fiddle) only its group is.
def adopt_orphans
  require 'fiddle'
  arguments = [Fiddle::TYPE_INT, *[Fiddle::TYPE_LONG] * 4]
  prctl = Fiddle::Function.new(Fiddle::Handle::DEFAULT['prctl'], arguments, Fiddle::TYPE_INT)
  prctl.call(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
rescue LoadError, StandardError => e
  warn("processes that a compile leaves in sessions of their own are not found: #{e.class}: #{e.message}")
end

# Ends what compiles have let go of; to be called when none is under way, for another one may use it. What is below those that end comes
# here in turn, and is told of by a signal as they are.
def end_orphans
  Dir.glob('/proc/self/task/*/children').flat_map { |path| File.read(path).split.map(&:to_i) }.each do |pid|
    Process.kill(:KILL, pid)
    Process.waitpid(pid, Process::WNOHANG)
  rescue SystemCallError
    nil
  end
rescue SystemCallError
  nil
end

def reap(children)
  children.keys.each do |pid|
    next unless Process.waitpid(pid, Process::WNOHANG)

    status = $?
    child = children.delete(pid)
    child.take if child.pipe
    begin
      child.io.write(status.signaled? ? "signal #{status.termsig}\n" : "exit #{status.exitstatus}\n")
    rescue SystemCallError
      nil
    end
    child.close
    # What it has started goes with it.
    begin
      Process.kill(:KILL, -pid)
    rescue SystemCallError
      nil
    end
    yield child.text unless child.text.empty?
  end
end

def start_child(io, children, others)
  tells, tell = IO.pipe
  pid = fork do
    [tells, CONTROL, *others].each(&:close)
    children.each_value(&:close)
    %i[CHLD TERM INT HUP].each { |signal| trap(signal, 'DEFAULT') }
    run_child(io, tell)
  end
  tell.close
  begin
    Process.setpgid(pid, pid)
  rescue SystemCallError
    nil
  end
  children[pid] = Child.new(io, tells)
  io.write("pid #{pid}\n")
rescue Errno::EPIPE
  nil
rescue SystemCallError => e
  # There is no room for another process just now: who asked is told, and the others go on.
  warn("compile: #{e.message}")
  begin
    io.write("busy\n")
  rescue SystemCallError
    nil
  end
  [tells, tell, io].each { |held| held&.close }
end

def serve
  children = {}
  ended, note = IO.pipe
  trap(:CHLD) { note.write_nonblock('x', exception: false) }
  common = what_is_common
  is_quiet = false
  loop do
    idle = CONFIG['idle_seconds'] if children.empty?
    # Whoever has just asked may ask again.
    idle = is_quiet ? 0 : 0.1 if children.empty? && !common.empty?
    ready = IO.select([CONTROL, ended, *children.values.filter_map(&:pipe)], nil, nil, idle)
    is_quiet = ready.nil?
    if is_quiet
      break if common.empty?

      load_one(common)
      next
    end
    ready = ready.first
    ended.read_nonblock(4096, exception: false) if ready.include?(ended)
    children.each_value { |child| child.take if child.pipe && ready.include?(child.pipe) }
    reap(children) { |text| learn(text) }
    end_orphans if children.empty?
    next unless ready.include?(CONTROL)

    io = begin
      CONTROL.recv_io(UNIXSocket)
    rescue SocketError, SystemCallError, IOError
      break
    end
    start_child(io, children, [ended, note])
  end
ensure
  children&.each_key do |pid|
    Process.kill(:KILL, -pid)
  rescue SystemCallError
    nil
  end
  end_orphans
end

begin
  $0 = "direct-puppet compile #{CONFIG['environment']}"
  Puppet::Util::Log.newdestination(LOADING)
  adopt_orphans
  set_up
  warm_up
  begin
    compiler
  rescue StandardError, ScriptError => e
    # Whoever compiles is told.
    warn("loading the manifests: #{e.class}: #{e.message}") if $VERBOSE
  end
  GC.start
rescue Exception => e # rubocop:disable Lint/RescueException
  announce('failed' => "#{e.class}: #{e.message}")
  exit!(4)
end
announce('ready' => { 'puppet' => Puppet.version.to_s, 'ruby' => RUBY_VERSION })
serve
exit!(0)
