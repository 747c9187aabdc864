# frozen_string_literal: true

# Applies resources of types that exist only in Ruby, for an agent that is not.
#
# ARGV[0]  JSON: certname, environment, libraries (directories with puppet/type/…, in place of Puppet's libdir), settings (pairs of name and
#          value), noop, show_diff
# stdin    questions, stdout answers: each four bytes of length, then JSON. What types write to standard output goes to standard error.
#
# The first answer comes unasked: {"ready": …}, or why there is none: {"missing": …}, {"failed": …}. Then there are, of one catalog:
#
#   load     makes all resources; says of each whether there is such a type, what is wrong with it, and what it is ordered by
#   check    prefetches when that is still to be done, and compares one resource with what is there
#   apply    makes the changes that the last check of this resource found, as Puppet::Transaction::ResourceHarness does, and flushes
#   refresh, audit, end

require 'etc'
require 'json'

CONFIG = JSON.parse(ARGV.shift)
QUESTIONS = $stdin.dup.binmode
ANSWERS = $stdout.dup.binmode
ANSWERS.sync = true
$stdin.reopen(File::NULL)
$stdout.reopen($stderr)
$stdout.sync = true

# Longest text that is said, in characters.
LONGEST = 16_384

# Most lines of the log that go with an answer.
MOST_LINES = 50

# What a type forks and does not replace is no second worker.
OWN = Process.pid

def write_frame(message)
  exit!(70) unless Process.pid == OWN
  bytes = JSON.generate(message, max_nesting: 200)
  ANSWERS.write([bytes.bytesize].pack('N'), bytes)
end

def read_frame
  exit!(70) unless Process.pid == OWN
  head = QUESTIONS.read(4)
  return nil unless head && head.bytesize == 4

  JSON.parse(QUESTIONS.read(head.unpack1('N')).force_encoding('UTF-8'), max_nesting: 200)
end

# Text that can be written as JSON.
def clean(value)
  text = value.to_s.dup
  text.force_encoding('UTF-8') if text.encoding == Encoding::BINARY
  text = text.encode('UTF-8', invalid: :replace, undef: :replace) unless text.encoding == Encoding::UTF_8
  text.scrub[0, LONGEST]
end

# A value as reports have it: lists and hashes as JSON.
def text(value)
  case value
  when nil then ''
  when Array, Hash then JSON.generate(plain(value), max_nesting: 200)[0, LONGEST]
  else clean(value)
  end
end

def plain(value)
  case value
  when Array then value.map { |held| plain(held) }
  when Hash then value.to_h { |key, held| [clean(key), plain(held)] }
  when Integer, true, false, nil then value
  else clean(value)
  end
end

def told(error)
  case error
  when SystemExit then 'it called exit'
  else clean(error.to_s.empty? ? error.class.name : error)
  end
end

begin
  require 'puppet'
  require 'puppet/application_support'
  require 'puppet/transaction'
rescue LoadError, StandardError => e
  write_frame('missing' => clean(e.message))
  exit!(3)
end

module DirectPuppet
  # What types log while they work.
  class Lines
    def initialize
      @lines = []
    end

    def add(message)
      @lines << [message.level.to_s, clean(message.to_s)] if @lines.size < MOST_LINES
    end

    def take
      taken = @lines
      @lines = []
      taken
    end
  end
end

Puppet::Util::Log.newdesttype :direct_puppet_types do
  match 'DirectPuppet::Lines'

  def initialize(lines)
    @lines = lines
  end

  def handle(message)
    @lines.add(message)
  end
end

LINES = DirectPuppet::Lines.new

# What an agent of Puppet has loaded whatever it applies: types of modules build on it and do not say so. What costs facts to load is loaded
# when it is named.
ALWAYS = %w[
  puppet/parameter/boolean puppet/parameter/package_options puppet/property/keyvalue puppet/property/list puppet/property/ordered_list
  puppet/provider/exec puppet/provider/package puppet/util/checksums puppet/util/diff puppet/util/execution puppet/util/symbolic_file_mode
].freeze
CORE = %i[file exec resources].freeze
CORE_WHEN_NAMED = %i[User Group Service Package].freeze

class Puppet::Type # rubocop:disable Style/ClassAndModuleChildren
  def self.const_missing(name)
    return super unless equal?(Puppet::Type) && CORE_WHEN_NAMED.include?(name)

    Puppet::Type.type(name.to_s.downcase.intern)
    const_defined?(name, false) ? const_get(name, false) : super
  end
end

def load_core
  ALWAYS.each do |file|
    require file
  rescue LoadError => e
    Puppet.debug("this Puppet has no #{file}: #{e.message}")
  end
  CORE.each { |name| Puppet::Type.type(name) }
end

def set_up
  ENV['HOME'] ||= Etc.getpwuid.dir
  libraries = CONFIG['libraries']
  arguments = ['--certname', CONFIG['certname'], '--environment', CONFIG['environment']]
  arguments += CONFIG['settings'].flat_map { |name, value| ["--#{name}", value] }
  arguments += ['--libdir', libraries.first] unless libraries.empty?
  Puppet.initialize_settings(arguments)
  # Only now: what comes before sets it to that of a user.
  Puppet.settings.preferred_run_mode = :agent
  Puppet[:noop] = CONFIG['noop']
  Puppet[:show_diff] = CONFIG['show_diff']
  $LOAD_PATH.unshift(*library_directories)
  Puppet::ApplicationSupport.push_application_context(Puppet::Util::RunMode[:agent])
  environment = Puppet.lookup(:current_environment)
  Puppet.push_context({ loaders: Puppet::Pops::Loaders.new(environment, true) }, 'types in Ruby')
  load_core
  Puppet::Util::Log.newdestination(LINES)
  # Providers may ask for facts that modules bring.
  facts = library_directories.map { |dir| File.join(dir, 'facter') }.select { |dir| File.directory?(dir) }
  Puppet.runtime[:facter].search(*facts) unless facts.empty?
end

def library_directories
  CONFIG['libraries'].empty? ? [Puppet[:libdir].to_s] : CONFIG['libraries']
end

# The resources of one catalog that are managed here.
class Types
  # A property that is out of sync: what was there, and why that could not be found out, if it could not.
  Difference = Struct.new(:property, :current, :broken)

  RELATIONS = %i[require before subscribe notify].freeze

  def initialize(question)
    @catalog = catalog(question)
    @made = question['resources'].map { |item| make(item) }
    @transaction = Puppet::Transaction.new(@catalog, nil, Puppet::Graph::SequentialPrioritizer.new)
    @differences = {}
    @ending = []
    @prepared = {}
  end

  # Says of each resource what is to be known before any is applied.
  def known
    @made.map do |made|
      made.is_a?(Hash) ? made : describe(made)
    rescue SignalException
      raise
    rescue Exception => e # rubocop:disable Lint/RescueException
      { 'known' => true, 'error' => told(e) }
    end
  end

  def check(at)
    resource = prepared(at)
    @differences.delete(at)
    current = resource.retrieve_resource.to_hash
    found = differences(resource, current)
    @differences[at] = found
    { 'changes' => found.map { |difference| change(difference) } }
  end

  def apply(at)
    resource = resource(at)
    found = @differences.delete(at) or raise 'it was not checked before'
    changed = false
    made = found.map do |difference|
      next { 'failed' => difference.broken } if difference.broken

      message = sync(difference)
      changed = true
      { 'message' => message }
    rescue StandardError, ScriptError => e
      { 'failed' => told(e) }
    end
    { 'made' => made, 'flush' => (flush(resource) if changed) }
  end

  def refresh(at)
    resource = prepared(at)
    return { 'refreshed' => false } unless resource.respond_to?(:refresh)

    resource.refresh
    { 'refreshed' => true }
  end

  def audit(at)
    resource = prepared(at)
    current = resource.retrieve_resource.to_hash
    named = Array(resource[:audit]).map(&:to_sym).select { |name| current.key?(name) && !resource.property(name)&.sensitive }
    { 'values' => named.to_h { |name| [name.to_s, text(current[name])] } }
  end

  def end
    @ending.each do |provider|
      provider.post_resource_eval
    rescue StandardError => e
      Puppet.err("post_resource_eval failed for provider #{provider}: #{told(e)}")
    end
    {}
  end

  private

  # Resources that are managed elsewhere are there when somebody asks for them by name, without parameters.
  def catalog(question)
    environment = Puppet.lookup(:current_environment)
    catalog = Puppet::Resource::Catalog.new(CONFIG['certname'], environment)
    others = question['others'].to_h { |type, title| [[type, title], true] }
    catalog.define_singleton_method(:resource) do |type, title = nil|
      found = super(type, title)
      next found if found

      reference = Puppet::Resource.type_and_title(type.is_a?(Class) ? type.name.to_s : type.to_s, title)
      Puppet::Resource.new(*reference, environment: environment) if others.key?(reference.map(&:to_s))
    end
    catalog
  end

  def make(item)
    # It names a file below the library.
    type = Puppet::Type.type(item['type']) if item['type'].match?(/\A[A-Z][A-Za-z0-9_]*\z/)
    return { 'known' => false } unless type

    data = item.merge('kind' => 'compilable_type')
    resource = Puppet::Resource.from_data_hash(data)
    resource.catalog = @catalog
    made = type.new(resource)
    raise 'it is for devices only, not for hosts' unless made.appliable_to_host?

    @catalog.add_resource(made)
    made
  rescue SignalException
    raise
  rescue Exception => e # rubocop:disable Lint/RescueException
    { 'known' => true, 'error' => told(e) }
  end

  def describe(resource)
    resource.finish
    resource.pre_run_check if resource.respond_to?(:pre_run_check)
    { 'known' => true, 'refreshes' => resource.respond_to?(:refresh), 'alias' => other_name(resource),
      'relations' => RELATIONS.flat_map { |kind| relations(resource, kind) } }
  end

  def other_name(resource)
    return unless resource.class.key_attributes.length == 1 && resource.isomorphic?

    name = resource[:name].to_s
    clean(name) unless name == resource.title
  end

  # As Puppet::Type#autorelation, but that what is managed elsewhere is named and not looked up.
  def relations(resource, kind)
    found = []
    resource.class.send("eachauto#{kind}") do |type, block|
      next unless Puppet::Type.type(type)

      [resource.instance_eval(&block)].flatten(1).compact.each do |other|
        other = @catalog.resource(type, other) || other unless other.is_a?(Puppet::Type) || other.is_a?(Puppet::Resource)
        found << { 'kind' => kind.to_s, 'other' => reference(type, other).map { |part| clean(part) } } unless other.equal?(resource)
      end
    end
    found
  end

  def reference(type, other)
    case other
    when Puppet::Type then Puppet::Resource.type_and_title(other.class.name.to_s, other.title)
    when Puppet::Resource then [other.type, other.title]
    else Puppet::Resource.type_and_title(type.to_s, other.to_s)
    end
  end

  def resource(at)
    made = @made.fetch(at)
    raise made['error'] || 'there is no such type' if made.is_a?(Hash)

    made
  end

  def prepared(at)
    resource = resource(at)
    prepare(resource) unless @prepared[at]
    @prepared[at] = true
    resource
  end

  # What Puppet::Transaction does before the turn of a resource.
  def prepare(resource)
    unless resource.suitable?
      raise "Provider #{resource.provider.class.name} is not functional on this host" if resource.provider

      raise "Could not find a suitable provider for #{resource.class.name}"
    end
    @transaction.prefetch_if_necessary(resource)
    provider = resource.provider.class
    if @transaction.prefetch_failed_providers[resource.type][provider.name]
      raise "Prefetch failed for #{resource.type} provider '#{provider.name}'"
    end

    @ending |= [provider] if provider.respond_to?(:post_resource_eval)
    refuse_generated(resource)
  end

  def refuse_generated(resource)
    generated = %i[generate eval_generate].select { |call| resource.respond_to?(call) }.flat_map { |call| Array(resource.send(call)) }
    return if generated.empty?

    raise "it generates other resources (#{generated.first(3).map(&:ref).join(', ')}), which this agent does not apply: " \
          'declare them by themselves'
  end

  def differences(resource, current)
    ensured = resource.parameter(:ensure)
    if ensured&.should
      found = difference(ensured, current)
      return [found] if found
    end
    return [] unless resource.present?(current)

    resource.properties.filter_map { |property| difference(property, current) }
  end

  def difference(property, current)
    value = current[property.name]
    Difference.new(property, value, nil) if property.should && !property.safe_insync?(value)
  rescue StandardError => e
    Difference.new(property, value, told(e))
  end

  def change(difference)
    property = difference.property
    current = difference.current
    change = { 'property' => property.name.to_s, 'secret' => property.sensitive ? true : false, 'broken' => difference.broken }
    return change if property.sensitive

    change.merge('previous' => text(current), 'desired' => text(property.should),
                 'is' => worded(property, :is_to_s, current), 'should' => worded(property, :should_to_s, property.should))
  end

  def worded(property, call, value)
    clean(property.format('%s', property.send(call, value)))
  rescue StandardError
    # It matters only when the change is not made.
    text(value)
  end

  # Makes one change; returns what is told of it.
  def sync(difference)
    property = difference.property
    property.sync
    return nil if property.sensitive

    clean(property.change_to_s(difference.current, property.should))
  end

  # Returns why what was changed is not there yet, if so.
  def flush(resource)
    resource.flush if resource.respond_to?(:flush)
    nil
  rescue StandardError, ScriptError => e
    told(e)
  end
end

def answer(question)
  case question['call']
  when 'load'
    $types = Types.new(question)
    { 'resources' => $types.known }
  when 'end' then $types ? $types.end : {}
  when 'check', 'apply', 'refresh', 'audit' then $types.send(question['call'], question['resource'])
  else { 'error' => "unknown question #{clean(question['call'])}" }
  end
rescue SignalException
  raise
rescue Exception => e # rubocop:disable Lint/RescueException
  { 'error' => told(e) }
end

begin
  $0 = 'direct-puppet types in Ruby'
  set_up
rescue Exception => e # rubocop:disable Lint/RescueException
  write_frame('failed' => "#{e.class}: #{told(e)}")
  exit!(4)
end
write_frame('ready' => { 'puppet' => Puppet.version.to_s, 'ruby' => RUBY_VERSION, 'libraries' => library_directories })

while (question = read_frame)
  reply = answer(question).merge('log' => LINES.take)
  begin
    write_frame(reply)
  rescue JSON::JSONError, EncodingError => e
    write_frame('error' => told(e), 'log' => [])
  end
  exit(0) if question['call'] == 'end'
end
exit!(0)
